"""The Python package against what a Rust hub published: `own` runs its tests and its types, `recorded HUB SAID` holds a session of
examples/record.py against what that script said."""
import ast
import json
import sys
import unittest
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "tools/python"
sys.path.insert(0, str(PACKAGE))


def own():
    for path in sorted(PACKAGE.rglob("*.py")):
        ast.parse(path.read_text(), str(path), feature_version=(3, 10))
    suite = unittest.TestLoader().discover(str(PACKAGE / "tests"), top_level_dir=str(PACKAGE))
    result = unittest.TextTestRunner(stream=sys.stdout).run(suite)
    assert result.wasSuccessful() and result.testsRun >= 42 and not result.skipped, result
    from mypy import api

    report, _, code = api.run(["--config-file", str(PACKAGE / "pyproject.toml"), "--cache-dir=/dev/null", str(PACKAGE / "marey")])
    assert code == 0, report


def recorded(hub, said):
    import numpy as np

    import marey
    sys.path.insert(0, str(PACKAGE / "examples"))
    from record import HEART_HZ, MOTION_HZ, heart_mv, motion

    said = json.loads(said)
    begins, seconds = int(said["begins_ns"]), said["seconds"]
    assert said["connections"] > 1, "no kill fell while the device had something to say"
    session = marey.open(hub).session()
    assert not session.is_live and session.devices() == ["board"], session
    for name, rate, make in (("heart", HEART_HZ, lambda i: (heart_mv(i),)), ("motion", MOTION_HZ, motion)):
        stream, count = session.stream(name), seconds * rate
        frame = stream.df()
        assert (stream.rows, len(frame)) == (count, count), (name, stream.rows, count)
        assert (frame["seq"].to_numpy() == np.arange(count)).all() and set(frame["epoch"]) == {0}
        stamps = np.array([begins + i * 1_000_000_000 // rate for i in range(count)])
        assert (frame["device_time_ns"].to_numpy() == stamps).all()
        wanted = list(zip(*map(make, range(count))))
        for channel, values in zip(stream.channels(), wanted):
            dtype = frame[channel].dtype
            assert (frame[channel].to_numpy() == np.array(values).astype(dtype)).all(), channel
        assert np.isfinite(frame["time_err_us"]).all(), "probes give every sample a bound"
        part = stream.df(columns=stream.channels()[:1], start=frame.index[100], end=frame.index[200])
        assert part.equals(frame[[*part.columns]].iloc[100:200]), part
        for unit in stream.quantities().values():
            assert len(unit) == count
    events = session.events()
    assert list(events.loc[events["kind"] == "second", "text"]) == [str(s) for s in range(0, seconds, 60)], events
    receipt = session.receipt()
    assert receipt.complete and all(row["captured"] == row["parquet"] for row in receipt.streams()), str(receipt)
    check = receipt.check()
    assert check.ok and not check.skipped and check.files > 8, str(check)
    from check_nwb import check_nwb

    # lead; x, y, steps; and the four columns that each stream has.
    assert check_nwb(session, Path(hub).parent / "walk.nwb") == seconds * (HEART_HZ * 5 + MOTION_HZ * 7)
    # A changed byte in any file is named.
    segments = [s for log in json.loads((session.path / "manifest.json").read_text())["logs"] for s in log["segments"]]
    cuts = {session.path / s["path"]: int(s["cut"]["bytes"]) for s in segments if "cut" in s}
    for path in [p for p in session.path.rglob("*") if p.suffix in (".parquet", ".json", ".mlog") and p.name != "session.json"]:
        if path.name.startswith("receipt"):
            continue
        whole = path.read_bytes()
        cut = cuts.get(path)
        # Behind a cut nothing counts.
        at = (len(whole) if cut is None else cut) // 2
        if cut == 0:
            continue
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
        found = receipt.check()
        assert not found.ok and str(path) in str(found), (path, str(found))
        path.write_bytes(whole)
        path.rename(path.with_suffix(".away"))
        found = receipt.check()
        assert not found.ok and str(path) in str(found), (path, str(found))
        path.with_suffix(".away").rename(path)
    assert receipt.check().ok


def recipes(folder):
    """Every Python block of docs/recipes.md, one after the other, in a folder with a fresh demo."""
    import os
    import re

    page = (PACKAGE.parents[1] / "docs/recipes.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 10
    os.chdir(folder)
    scope = {}
    for block in blocks:
        try:
            exec(compile(block, "docs/recipes.md", "exec"), scope)
        except Exception:
            print(block)
            raise
    assert len(scope["both"]) == len(scope["imu"]) and scope["both"]["conductance"].notna().mean() > 0.9
    assert len(scope["joined"]) == len(scope["imu"]) and len(scope["sure"]) > 0 and scope["means"].notna().any().all()
    assert np_max(scope) <= 2, "the map gives the times that were published"
    assert scope["grid"].notna().all().all()
    assert scope["session"].receipt().check().ok
    from check_nwb import check_nwb

    assert check_nwb(scope["session"], Path("held.nwb")) > 10_000


def minutes(binary, folder):
    """docs/first-ten-minutes.md from its first line to its last, in a folder of its own; cargo's `run` is the binary that the
    tests have, and the environment is theirs, with the package installed into a folder as its page says."""
    import os
    import re
    import shlex
    import subprocess

    root, out = PACKAGE.parents[1], Path(folder)
    page = (root / "docs/first-ten-minutes.md").read_text()
    blocks = re.findall(r"```(sh|python)\n(.*?)```", page, re.DOTALL)
    installed = out / "installed"
    os.chdir(out)
    (out / "tools").symlink_to(root / "tools")

    def shell(line):
        words = shlex.split(line)
        if words == ["python3", "-m", "venv", ".venv"]:
            return
        if words[:4] == ["cargo", "run", "--release", "--"]:
            words = [binary, *words[4:]]
        elif words[0] == ".venv/bin/pip":
            # What it depends on is in this environment; a copy, since setuptools writes beside what it builds.
            import shutil

            shutil.copytree(PACKAGE, out / "package", ignore=shutil.ignore_patterns("__pycache__"))
            what = words[-1].replace("./tools/python", "./package")
            words = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(installed), what]
        else:
            assert words[0] == ".venv/bin/python", line
            words[0] = sys.executable
        ran = subprocess.run(words, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, (line, ran.stdout, ran.stderr)
        said.append(ran.stdout)

    said, scope = [], {}
    for kind, block in blocks:
        if kind == "sh":
            for line in block.strip().splitlines():
                shell(line)
        else:
            # From what was installed, not from the clone.
            sys.path[:] = [str(installed), *(path for path in sys.path if path != str(PACKAGE))]
            exec(compile(block, "docs/first-ten-minutes.md", "exec"), scope)
    assert Path(scope["marey"].__file__).is_relative_to(installed), scope["marey"].__file__
    assert len(blocks) == 8 and scope["demo"].receipt().check().ok
    assert scope["both"].notna().any().all() and len(scope["imu"]) > 0
    assert (out / "two.png").read_bytes().startswith(b"\x89PNG")


def np_max(scope):
    return abs(scope["ns"] // 1000 - scope["imu"].index.as_unit("us").asi8).max()


{"own": own, "recorded": recorded, "recipes": recipes, "minutes": minutes}[sys.argv[1]](*sys.argv[2:])
