"""Aligning: values that are known, and none that are not."""
import unittest
from types import SimpleNamespace

import numpy as np
import pandas as pd

from marey.align import align

T0 = 1_700_000_000_000_000


def stream(times_us, epoch=0, **channels):
    times = np.asarray(times_us, dtype=np.int64) + T0
    index = pd.DatetimeIndex(pd.to_datetime(times, unit="us", utc=True), name="time")
    count = len(times)
    frame = pd.DataFrame({"device_time_ns": times * 1000, "epoch": np.broadcast_to(epoch, count).astype(np.int32),
                          "time_err_us": np.arange(count, dtype=np.float32), "seq": np.arange(count), **channels}, index=index)
    frame.attrs = {"units": {}}
    return SimpleNamespace(df=lambda scaled, start, end: frame)


class Align(unittest.TestCase):
    def test_a_straight_line_stays_one(self):
        times = np.sort(np.random.default_rng(1).integers(0, 10_000_000, 2000))
        out = align([("a", stream(times, x=times.astype(float)))], hz=100, max_gap="1s")
        grid = out.index.as_unit("us").asi8 - T0
        np.testing.assert_allclose(out["a.x"], grid, atol=1e-3)
        self.assertTrue((np.diff(grid) == 10_000).all())
        self.assertTrue(((grid + T0) % 10_000 == 0).all(), "whole multiples of the period")

    def test_nothing_is_made_up_across_a_gap(self):
        times = [*range(0, 1_000_001, 10_000), *range(2_000_000, 3_000_001, 10_000)]
        known = stream(times, x=np.ones(len(times)), b=np.ones(len(times), dtype=bool))
        for method in (None, "linear", "nearest", "previous"):
            out = align([("a", known)], hz=1000, max_gap="200ms", method=method)
            at = out.index.as_unit("us").asi8 - T0
            inside = (at > 1_000_000) & (at < 2_000_000)
            self.assertTrue(out["a.x"][inside].isna().all() and out["a.time_err_us"][inside].isna().all(), method)
            self.assertTrue(out["a.b"][inside].isna().all(), method)
            self.assertTrue((out["a.x"][~inside] == 1).all(), method)
        out = align([("a", known)], hz=1000, max_gap=1.0)
        self.assertFalse(out["a.x"].isna().any(), "a gap of a second is allowed here")

    def test_nor_between_two_lives_of_a_clock(self):
        out = align([("a", stream([0, 10_000, 20_000, 30_000], epoch=[0, 0, 1, 1], x=[0.0, 1.0, 2.0, 3.0]))], hz=500)
        at = out.index.as_unit("us").asi8 - T0
        self.assertEqual(list(at[out["a.x"].isna()]), [12_000, 14_000, 16_000, 18_000])

    def test_methods(self):
        one = stream([0, 10_000], x=np.array([0, 10], dtype=np.int32), s=np.array(["a", "b"], dtype=object))
        expected = {None: [0, 2, 4, 6, 8, 10], "nearest": [0, 0, 0, 10, 10, 10], "previous": [0, 0, 0, 0, 0, 10]}
        for method, values in expected.items():
            out = align([("a", one)], hz=500, method=method)
            self.assertEqual(list(out["a.x"]), values, method)
            self.assertEqual(list(out["a.s"]), ["a", "a", "a", "b", "b", "b"] if method == "nearest" else ["a"] * 5 + ["b"])
            self.assertEqual(list(out["a.time_err_us"]), [0, 1, 1, 1, 1, 1], "the wider bound of the two")

    def test_only_where_all_streams_are(self):
        out = align([("a", stream([0, 100_000], x=[0.0, 1.0])), ("b", stream([50_000, 250_000], x=[0.0, 1.0]))], hz=100)
        at = out.index.as_unit("us").asi8 - T0
        self.assertEqual((at[0], at[-1]), (50_000, 100_000))
        apart = align([("a", stream([0, 10], x=[0.0, 1.0])), ("b", stream([500, 600], x=[0.0, 1.0]))], hz=100)
        self.assertEqual(len(apart), 0)

    def test_equal_stamps_are_no_trouble(self):
        out = align([("a", stream([0, 10_000, 10_000, 20_000], x=[0.0, 1.0, 1.0, 2.0]))], hz=1000)
        np.testing.assert_allclose(out["a.x"], np.arange(21) / 10)

    def test_bad_calls_say_what_is_wrong(self):
        one = [("a", stream([0, 1], x=[0.0, 1.0]))]
        for call, what in [(dict(streams=[], hz=1), "nothing"), (dict(streams=one, hz=0), "hz"), (dict(streams=one, hz=np.nan), "hz"),
                           (dict(streams=one, hz=1, max_gap="-1s"), "max_gap"), (dict(streams=one, hz=1, method="cubic"), "linear"),
                           (dict(streams=[("a", stream([], x=[]))], hz=1), "no sample")]:
            with self.assertRaisesRegex(ValueError, what):
                align(call.pop("streams"), **call)


if __name__ == "__main__":
    unittest.main()
