"""Streams from afar: levels where there are some, samples where there are none, and what was said beside them."""
import hashlib
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import marey

from . import test_recording


class Overview(test_recording.Session):
    def levels(self, widths):
        """A table of levels: so many buckets of so many microseconds, of `phone`'s `imu@1`; the least of each is its width."""
        rows = [{"time": i * width, "device": "phone", "stream": "imu@1", "channel": channel, "width_us": width, "count": 2,
                 "min": float(width), "max": 2.0 * width, "mean": 1.5 * width}
                for width, buckets in widths.items() for channel in ("x", "y") for i in range(buckets)]
        frame = pd.DataFrame(rows).assign(time=lambda f: pd.to_datetime(f["time"], unit="us", utc=True).dt.as_unit("us")).set_index("time")
        pq.write_table(pa.Table.from_pandas(frame), self.path / "overview.parquet")

    def test_the_narrowest_level_that_fits_is_taken(self):
        self.stream()
        self.levels({4**7: 64, 4**8: 16, 4**9: 4})
        imu = marey.open(self.path).session().stream("imu")
        for points, width, buckets in ((100, 4**7, 64), (64, 4**7, 64), (63, 4**8, 16), (5, 4**9, 4)):
            seen = imu.overview(points)
            self.assertEqual((seen.attrs["width_us"], len(seen)), (width, buckets))
            self.assertTrue((seen["y"]["min"] == width).all() and list(seen.columns.unique(0)) == ["x", "y"])
        # Of a span what has a part in it, at both ends.
        start, end = (pd.Timestamp(us, unit="us", tz="UTC") for us in (10 * 4**7 + 5, 30 * 4**7))
        seen = imu.overview(40, start=start, end=end)
        self.assertEqual((seen.index[0].value // 1000, len(seen)), (10 * 4**7, 20))
        with self.assertRaises(ValueError):
            imu.overview(0)

    def test_samples_are_read_where_buckets_are_too_wide_or_not_there(self):
        self.stream(count=40)  # 10 ms apart
        imu = marey.open(self.path).session().stream("imu")
        for levels in ({}, {4**10: 1}):
            if levels:
                self.levels(levels)
            seen = imu.overview(12)
            self.assertEqual((seen.attrs["width_us"], list(seen.columns.unique(0))), (65536, ["x"]))
            self.assertEqual((list(seen["x"]["count"]), list(seen["x"]["min"])), ([7, 7, 6, 7, 6, 7], [0, 7, 14, 20, 27, 33]))
            self.assertEqual(list(seen["x"]["max"]), [6, 13, 19, 26, 32, 39])
            self.assertTrue(np.allclose(seen["x"]["mean"], [3, 10, 16.5, 23, 29.5, 36]))
            self.assertEqual(len(imu.overview(1000)), 40)
        self.assertEqual(len(imu.overview(5, start="2030-01-01")), 0)

    def test_statistics_come_from_the_widest_level(self):
        self.stream()
        self.levels({4**7: 64, 4**9: 4})
        part = {"rows": "4", "first_time": "1970-01-01T00:00:00Z", "last_time": "1970-01-01T00:00:00.03Z"}
        said = {"streams": [{"device": "phone", "stream": "imu@1", "parts": [part]}]}
        (self.path / "manifest.json").write_text(json.dumps(said))
        row = {"device": "phone", "stream": "imu@1", "captured": "5", "durable": "4", "parquet": "4", "missing": "1"}
        receipt = {"session": "walk", "generation": 1, "complete": False, "streams": [row]}
        (self.path / "receipt-0001.json").write_text(json.dumps(receipt))
        told = marey.open(self.path).session().stream("imu").statistics()
        self.assertEqual(told.loc["x"].to_dict(), {"count": 8, "min": 4**9, "max": 2 * 4**9, "mean": 1.5 * 4**9})
        self.assertEqual((told.attrs["rows"], told.attrs["rate_hz"], told.attrs["missing"]), (4, 100.0, 1))

    def test_what_was_said_by_then_is_checked_and_what_was_said_later_is_not(self):
        self.stream()
        path = self.path / "annotations.jsonl"
        path.write_bytes(b'{"n":1}\n{"n":2}\n')
        self.receipt()
        manifest = json.loads((self.path / "manifest.json").read_text())
        manifest["annotations"] = {"lines": "1", "bytes": "8", "sha256": hashlib.sha256(b'{"n":1}\n').hexdigest()}
        (self.path / "manifest.json").write_text(json.dumps(manifest))
        whole = hashlib.sha256((self.path / "manifest.json").read_bytes()).hexdigest()
        said = json.loads((self.path / "receipt-0001.json").read_text())
        said["manifest"]["sha256"] = whole
        (self.path / "receipt-0001.json").write_text(json.dumps(said))
        check = marey.open(self.path).session().receipt().check()
        self.assertTrue(check.ok, str(check))
        path.write_bytes(b'{"n":3}\n{"n":2}\n')
        self.assertIn("annotations.jsonl", str(marey.open(self.path).session().receipt().check()))
        path.unlink()
        self.assertIn("it is gone", str(marey.open(self.path).session().receipt().check()))
