"""Views for DuckDB: a schema for each session, in it a view for each stream with all its devices, and one for each table beside."""
from __future__ import annotations

import os
from pathlib import Path

from .recording import Session, open

BESIDE = ("events", "gaps", "overview", "channels", "clock_probes", "clock_map")


def views(path: str | os.PathLike[str]) -> str:
    """The SQL that makes the views of a hub's or a session's folder. Paths in it are absolute.

    Session `walk-01` is the schema `"walk-01"`, stream `imu@1` the view `imu_1`. While a session is recorded its rolling parts are
    read, and of the tables beside the streams there are events and overview.
    """
    hub = open(Path(path).resolve())
    return "\n".join(line for name in hub.sessions() for line in _of(hub.session(name))) + "\n"


def _of(session: Session) -> list[str]:
    schema = _name(session.name)
    lines = [f"CREATE SCHEMA IF NOT EXISTS {schema};"]
    root = session.path / ("live" if session.is_live else "streams")
    for label in sorted({stream.label for stream in session.streams()}):
        files = _text(root / f"stream={label}" / "device=*" / "*.parquet")
        # A device named 007 stays text.
        read = f"read_parquet({files}, hive_partitioning = true, hive_types = {{'stream': VARCHAR, 'device': VARCHAR}})"
        lines.append(f"CREATE OR REPLACE VIEW {schema}.{_name(label.replace('@', '_'))} AS SELECT * FROM {read};")
    for table in BESIDE:
        path = session.beside(table)
        if path.is_file():
            read = f"read_parquet({_text(path)}, hive_partitioning = false)"
            lines.append(f"CREATE OR REPLACE VIEW {schema}.{table} AS SELECT * FROM {read};")
    return lines


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
