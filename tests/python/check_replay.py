#!/usr/bin/env python3
"""Holds what `marey demo --replay` recorded against the CSV files that it was given, row for row and bit for bit.

    check_replay.py SESSION CSV [CSV ...]      exit 0 and one line of counts, or exit 1 and one sentence

The files are read as text: each number is what its digits say (correctly rounded, `float`), each stamp a plain integer
of milliseconds. SESSION is a sealed session's folder; a file's device is called as the file. Labels are the columns
that hold no numbers: an event each time that one changes.
"""
import sys
from pathlib import Path
from typing import List, Tuple

import numpy as np
import pandas as pd

STAMP, NS_PER_MS = "timestamp", 1_000_000


class Mismatch(Exception):
    """A row of a file that does not stand in Parquet as it should."""


def require(fact: bool, sentence: str, *values: object) -> None:
    if not fact:
        raise Mismatch(sentence % values)


def check(session: Path, csv: Path) -> Tuple[int, int, List[str]]:
    """Rows, events and the types of the channels."""
    text = pd.read_csv(csv, dtype=str, keep_default_na=False)
    stamps = text[STAMP].astype(np.int64).to_numpy() * NS_PER_MS
    numeric = [name for name in text.columns if name != STAMP and is_numeric(text[name])]
    parts = sorted(session.glob("streams/*/device=%s/*.parquet" % csv.stem))
    require(bool(parts), "no Parquet of %s", csv.stem)
    frame = pd.concat([pd.read_parquet(part) for part in parts])
    frame = frame.sort_values(["epoch", "seq"])
    require(len(frame) == len(text), "%s has %d rows, Parquet %d", csv.name, len(text), len(frame))
    require(frame["epoch"].nunique() == 1, "%s was recorded in %d epochs", csv.name, frame["epoch"].nunique())
    require(bool((frame["seq"].to_numpy() == np.arange(len(frame))).all()), "the indices of %s have holes", csv.name)
    require(bool((frame["device_time_ns"].to_numpy() == stamps).all()), "the stamps of %s are not those of the file",
            csv.name)
    kinds = []
    for name in numeric:
        require(name in frame.columns, "column %s of %s has no channel", name, csv.name)
        stored = frame[name].to_numpy()
        require(stored.dtype.kind == "f", "%s of %s is stored as %s", name, csv.name, stored.dtype)
        # The text's own number, at the declared type; and the declared type loses no digit of it.
        meant = np.array([float(cell) if cell else np.nan for cell in text[name]], dtype=np.float64)
        at_type = meant.astype(stored.dtype)
        same = at_type.view("u%d" % stored.dtype.itemsize) == stored.view("u%d" % stored.dtype.itemsize)
        require(bool(same.all()), "%s of %s differs first in row %d", name, csv.name, int(np.argmin(same)))
        require(bool(((at_type.astype(np.float64) == meant) | np.isnan(meant)).all()), "%s of %s lost digits as %s", name,
                csv.name, stored.dtype)
        kinds.append(str(stored.dtype))
    require(len(frame.columns) == 4 + len(numeric), "Parquet of %s has the columns %s", csv.stem, list(frame.columns))

    events = pd.read_parquet(session / "events.parquet")
    count = 0
    for name in [name for name in text.columns if name != STAMP and name not in numeric]:
        cells = text[name].to_list()
        changed = [at for at, cell in enumerate(cells) if at == 0 or cell != cells[at - 1]]
        mine = events[(events["device"].astype(str) == csv.stem) & (events["kind"].astype(str) == name)]
        mine = mine.sort_values(["epoch", "seq"])
        found = list(zip(mine["stamp_ns"].to_list(), mine["text"].to_list()))
        expected = [(int(stamps[at]), cells[at]) for at in changed]
        require(found == expected, "labels %s of %s are %s, in the file %s", name, csv.name, found, expected)
        # An event stands on the session's clock where the row of its stamp does.
        times = pd.Series(frame.index, index=frame["device_time_ns"].to_numpy())
        for (stamp_ns, label), time in zip(found, mine.index):
            off = min(abs((time - at).total_seconds()) for at in np.atleast_1d(times.loc[[stamp_ns]]))
            require(off < 1e-3, "event %s of %s is %f s off the samples of its stamp", label, csv.name, off)
        count += len(found)
    require(count > 0, "%s has labels in the file and no event", csv.name)
    return len(frame), count, kinds


def is_numeric(column: "pd.Series[str]") -> bool:
    try:
        [float(cell) for cell in column if cell]
        return True
    except ValueError:
        return False


def main() -> int:
    session, files = Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]]
    try:
        found = [check(session, csv) for csv in files]
    except Mismatch as mismatch:
        print("check_replay: %s" % mismatch, file=sys.stderr)
        return 1
    print("%d files: %s rows, %s labels, bit for bit; channels %s" % (
        len(found), "+".join(str(rows) for rows, _, _ in found), "+".join(str(events) for _, events, _ in found),
        sorted({kind for _, _, kinds in found for kind in kinds})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
