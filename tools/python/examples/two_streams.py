#!/usr/bin/env python3
# %% [markdown]
# Two streams of a session on one clock: how they were recorded, what is missing, how sure their times are, and a picture.
#
#     two_streams.py FOLDER STREAM STREAM --out picture.png
#
# FOLDER is a hub's or a session's; a stream is `imu`, or `phone/imu` where several devices have one.

# %%
import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as it stands in a clone; installed, this line can go
import marey  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("streams", nargs=2)
parser.add_argument("--session")
parser.add_argument("--out", type=Path, default=Path("two_streams.png"))
args = parser.parse_args()

# %% What was recorded, and is it all there?
session = marey.open(args.folder).session(args.session)
print(session)
receipt = session.receipt()
print(receipt)
print(receipt.check())
print(session.gaps()[["device", "stream", "samples", "cause"]].to_string())

# %% Each stream as it is: raw numbers, a time for each, and how far off that may be.
first = session.stream(args.streams[0]).df()
print(first.head())
print(first.attrs["units"], "times good to", float(first["time_err_us"].max()), "us")

# %% Both on one grid. Where a sample is missing for more than 200 ms there is NaN, and nothing is made up.
both = session.align(args.streams, hz=50, max_gap="200ms")
numbers = both.select_dtypes("number")
shown = [next(c for c in numbers if c.startswith(name + ".") and not c.endswith(".time_err_us")) for name in args.streams]
print(both[shown].describe().to_string())
print("correlation", round(float(both[shown].corr().iloc[0, 1]), 4))

# %% The picture: both signals, and the bound of the times below them.
figure, axes = plt.subplots(3, 1, sharex=True, figsize=(10, 6), layout="constrained")
for axis, column in zip(axes, shown):
    axis.plot(both.index, both[column], linewidth=0.8)
    axis.set_ylabel(f"{column}\n[{both.attrs['units'].get(column, '1')}]")
for name in args.streams:
    axes[2].plot(both.index, both[f"{name}.time_err_us"] / 1000, label=name)
axes[2].set_ylabel("time known\nwithin +- ms")
axes[2].legend()
figure.suptitle(f"{session.name}: {'complete' if receipt.complete else 'incomplete'}")
figure.savefig(args.out)
print("drawn", args.out)
