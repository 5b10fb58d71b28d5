"""Several streams on one grid.

Nothing is made up: where the two samples around a moment of the grid are further apart than `max_gap`, or belong to two lives
of a clock, the result has NaN there, whatever the method.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from .recording import Moment, Stream

METHODS = ("linear", "nearest", "previous")


def align(streams: Sequence[tuple[str, Stream]], *, hz: float, max_gap: str | float = "200ms", method: str | None = None,
          start: Moment | None = None, end: Moment | None = None) -> pd.DataFrame:
    """Streams, with the name under which each is to appear, on a grid of `hz` a second.

    The grid has the moments at whole multiples of its period since 1970, from where the last of the streams begins to where
    the first of them ends, or between `start` and `end`. `max_gap` is a duration as pandas has it, or seconds. `method` is
    `linear`, `nearest` or `previous`; without it numbers are interpolated, and truth values, text and lists are held from the
    sample before. Columns are `NAME.channel` and `NAME.time_err_us`: the wider bound of the two samples around a moment.
    """
    if not streams:
        raise ValueError("there is nothing to align: name at least one stream")
    names = [name for name, _ in streams]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two streams are to appear as {twice!r}: give each once, and say whose and which version is meant")
    if not (np.isfinite(hz) and 0 < hz <= 1e6):
        raise ValueError(f"hz is {hz}: it must lie above 0, and 1e6 at most, since times are in microseconds")
    if method not in (None, *METHODS):
        raise ValueError(f"the method is {method!r}: it must be one of {', '.join(METHODS)}")
    gap = pd.Timedelta(max_gap) if isinstance(max_gap, str) else pd.Timedelta(seconds=max_gap)
    if not gap > pd.Timedelta(0):
        raise ValueError(f"max_gap is {max_gap}: it must be a duration above 0")
    frames = [(name, stream.df(scaled=True, start=start, end=end)) for name, stream in streams]
    empty = [name for name, frame in frames if frame.empty]
    if empty:
        raise ValueError(f"{empty[0]} has no sample there")
    first = max(_us(frame.index)[0] for _, frame in frames)
    last = min(_us(frame.index)[-1] for _, frame in frames)
    grid = _grid(first, last, hz)
    columns: dict[str, object] = {}
    for name, frame in frames:
        columns |= {f"{name}.{channel}": values for channel, values in _onto(grid, frame, int(gap.value // 1000), method)}
    index = pd.DatetimeIndex(pd.to_datetime(grid, unit="us", utc=True), name="time").as_unit("us")
    result = pd.DataFrame(columns, index=index)
    result.attrs = {"units": {f"{name}.{c}": unit for name, frame in frames for c, unit in frame.attrs["units"].items()}}
    return result


def _grid(first_us: int, last_us: int, hz: float) -> np.ndarray:
    # Microseconds since 1970 times a rate have more digits than a double: exact where the grid begins, doubles from there on.
    period = 1_000_000 / Fraction(str(hz))
    begin, end = math.ceil(int(first_us) / period), math.floor(int(last_us) / period)
    whole, rest = divmod(begin * period, 1)
    grid = int(whole) + np.round(float(rest) + np.arange(max(0, end - begin + 1)) * float(period)).astype(np.int64)
    return grid[(grid >= first_us) & (grid <= last_us)]


def _us(index: pd.Index) -> np.ndarray:
    return index.as_unit("us").asi8 if isinstance(index, pd.DatetimeIndex) else np.asarray(index, dtype=np.int64)


def _onto(grid: np.ndarray, frame: pd.DataFrame, gap_us: int, method: str | None) -> list[tuple[str, object]]:
    times = _us(frame.index)
    after = np.clip(np.searchsorted(times, grid, side="left"), 0, len(times) - 1)
    before = np.where(times[after] == grid, after, np.maximum(after - 1, 0))
    same_life = frame["epoch"].to_numpy()[before] == frame["epoch"].to_numpy()[after]
    inside = (times[before] <= grid) & (grid <= times[after])
    known = inside & (((times[after] - times[before] <= gap_us) & same_life) | (before == after))
    width = (times[after] - times[before]).astype(float)
    share = np.divide(grid - times[before], width, out=np.zeros(len(grid)), where=width > 0)
    nearest = np.where(share < 0.5, before, after)
    out: list[tuple[str, object]] = []
    for channel in (c for c in frame.columns if c not in ("device_time_ns", "epoch", "time_err_us", "seq")):
        values = frame[channel].to_numpy()
        is_number = values.dtype.kind in "iuf"
        if is_number and method in (None, "linear"):
            low, high = values[before].astype(float), values[after].astype(float)
            found = np.where(before == after, low, low + (high - low) * share)
            out.append((channel, np.where(known, found, np.nan)))
            continue
        picked = values[nearest if method == "nearest" else before]
        if is_number:
            out.append((channel, np.where(known, picked.astype(float), np.nan)))
        else:
            held = pd.Series(picked.tolist(), dtype=object)
            held[~known] = None
            out.append((channel, held.to_numpy()))
    error = frame["time_err_us"].to_numpy().astype(float)
    out.append(("time_err_us", np.where(known, np.maximum(error[before], error[after]), np.nan)))
    return out
