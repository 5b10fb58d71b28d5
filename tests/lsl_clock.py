#!/usr/bin/env python3
"""What pyxdf makes of the clock offsets that LSL's recorder stored, for the column beside ours in `tests/clock-table`.

    tests/lsl_clock.py DIR

Where pyxdf can be imported its own `_clock_sync` is called. Else the same well-known method, written here in Python's own
library: the pairs of (device time, offset) are cut where the clock was reset, and a straight line is fitted to each piece
by Huber's loss, 0.1 ms being the error beyond which it is no longer squared. As a program this holds the method here
against what pyxdf made of the same pairs, for each folder of DIR that has both labrecorder_offsets.csv.gz and
pyxdf_aligned.csv.gz; ends with 1 where the two RMS errors differ by more than a twentieth.
"""
import csv
import gzip
import math
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

try:
    import numpy
    from importlib.metadata import version
    from pyxdf.pyxdf import _clock_sync
    BY = "pyxdf " + version("pyxdf")
except ImportError:
    _clock_sync = None
    BY = "its method in tests/lsl_clock.py (pyxdf can't be imported)"

HUBER_S = 1e-4


def rows(path):
    with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
        lines = csv.reader(text)
        next(lines)
        return [[int(cell) for cell in line] for line in lines]


def aligned(pairs, stamps):
    """Device stamps (ns) on the hub's time (ns), by pairs of device time and offset (ns)."""
    times, values = [time / 1e9 for time, _ in pairs], [value / 1e9 for _, value in pairs]
    if _clock_sync is None:
        return aligned_here(pairs, stamps)
    stream = SimpleNamespace(time_stamps=numpy.array(stamps) / 1e9, clock_times=times, clock_values=values,
                             clock_segments=[])
    _clock_sync({0: stream})
    return [round(stamp * 1e9) for stamp in stream.time_stamps]


def aligned_here(pairs, stamps):
    """As `aligned`, without pyxdf."""
    pieces = pieces_between_resets(pairs)
    placed, at = [], 0
    for number, piece in enumerate(pieces):
        end = len(stamps)
        if number + 1 < len(pieces):
            # A stamp belongs to the piece while it is nearer to its end than to the next one's begin.
            last, first = piece[-1][0], pieces[number + 1][0][0]
            end = next((nth for nth in range(at, len(stamps))
                        if abs(stamps[nth] - last) >= abs(stamps[nth] - first)), len(stamps))
        origin, offset, slope = line(piece)
        placed += [stamp + offset + slope * (stamp - origin) for stamp in stamps[at:end]]
        at = end
    return [round(time) for time in placed]


def pieces_between_resets(pairs):
    """Cut where the device's time jumps, by 5 s and 5 deviations or backwards, and the offset too, by 1 s and 10."""
    steps = [later[0] - earlier[0] for earlier, later in zip(pairs, pairs[1:])]
    jumps = [abs(later[1] - earlier[1]) for earlier, later in zip(pairs, pairs[1:])]
    far_step, far_jump = outliers(steps, 5, 5e9), outliers(jumps, 10, 1e9)
    pieces, begin = [], 0
    for nth, step in enumerate(steps):
        if (step < 0 or far_step(step)) and far_jump(jumps[nth]):
            pieces.append(pairs[begin:nth + 1])
            begin = nth + 1
    return pieces + [pairs[begin:]]


def outliers(numbers, deviations, least):
    middle = statistics.median(numbers) if numbers else 0
    deviation = statistics.median(abs(number - middle) for number in numbers) if numbers else 0
    return lambda number: number - middle > max(least, deviations * deviation)


def line(piece):
    """Origin, offset there and slope by Huber's loss: weighted least squares, repeated until it rests."""
    origin, base = piece[0]
    x = [(time - origin) / 1e9 for time, _ in piece]
    y = [(value - base) / 1e9 for _, value in piece]
    offset, slope, weights = 0.0, 0.0, [1.0] * len(x)
    for _ in range(2000):
        total = sum(weights)
        mean_x = sum(w * at for w, at in zip(weights, x)) / total
        mean_y = sum(w * value for w, value in zip(weights, y)) / total
        spread = sum(w * (at - mean_x) ** 2 for w, at in zip(weights, x))
        both = sum(w * (at - mean_x) * (value - mean_y) for w, at, value in zip(weights, x, y))
        before = offset, slope
        slope = both / spread if spread > 0 else 0.0
        offset = mean_y - slope * mean_x
        if abs(offset - before[0]) + abs(slope - before[1]) * (x[-1] - x[0]) < 1e-11:
            break
        weights = [min(1.0, HUBER_S / max(abs(value - offset - slope * at), 1e-12)) for at, value in zip(x, y)]
    return origin, base + offset * 1e9, slope


def rms_us(times, truth):
    return math.sqrt(sum(((time - true) / 1e3) ** 2 for time, true in zip(times, truth)) / len(truth))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    off = []
    for path in sorted(Path(sys.argv[1]).glob("*/pyxdf_aligned.csv.gz")):
        folder = path.parent
        truth = rows(folder / "truth.csv.gz")
        by_pyxdf = rms_us([row[0] for row in rows(path)], [row[1] for row in truth])
        pairs = rows(folder / "labrecorder_offsets.csv.gz")
        here = rms_us(aligned_here(pairs, [row[0] for row in truth]), [row[1] for row in truth])
        print("%-18s pyxdf %12.2f us   here %12.2f us   %+.2f %%" % (
            folder.name, by_pyxdf, here, 100 * (here / by_pyxdf - 1)))
        if abs(here / by_pyxdf - 1) > 0.05:
            off.append(folder.name)
    if off:
        sys.exit("the method here differs from pyxdf's: " + ", ".join(off))


if __name__ == "__main__":
    main()
