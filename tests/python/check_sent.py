#!/usr/bin/env python3
"""Holds a session's Parquet against what `format-spec/reference/send.py` captured.

    check_sent.py SESSION RESULT      exit 0 and one line of counts, or exit 1 and one sentence

SESSION is a sealed session's folder, RESULT a file whose last line is what send.py printed when it ended. Every sample
that it captured must stand in Parquet once, with the values that follow from its index (`send.sample_values`).
"""
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd

from mismatch import Mismatch, require

SEND = Path(__file__).resolve().parents[2] / "format-spec" / "reference" / "send.py"


def main() -> int:
    session, result = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text().splitlines()[-1])
    try:
        print(check(session, result))
    except Mismatch as mismatch:
        print("check_sent: %s" % mismatch, file=sys.stderr)
        return 1
    return 0


def check(session: Path, result: dict) -> str:
    captured = result["captured"]
    require(result["ended"] and result["acknowledged"] == captured, "send.py captured %d samples, of %d it has acks",
            captured, result["acknowledged"])
    parts = sorted(session.glob("streams/*/device=%s/*.parquet" % result["device"]))
    require(bool(parts), "no Parquet of %s", result["device"])
    frame = pd.concat([pd.read_parquet(part) for part in parts]).sort_values(["epoch", "seq"])
    require(frame["epoch"].nunique() == 1, "%d epochs stand in Parquet, send.py had one", frame["epoch"].nunique())
    require(frame["seq"].tolist() == list(range(captured)), "the sample indices in Parquet are not 0 to %d, each once",
            captured - 1)
    sample_values = load_send().sample_values
    values = [sample_values(index) for index in range(captured)]
    for name, expected in zip(("level", "code"), zip(*values)):
        require(frame[name].tolist() == list(expected), "%s is not what send.py sent", name)
    require(frame["device_time_ns"].iloc[0] == result["began_ns"], "the first sample's time is not that of its capture")
    return "%s: %d samples, each once and as it was sent" % (result["device"], captured)


def load_send() -> ModuleType:
    spec = importlib.util.spec_from_file_location("send", SEND)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
