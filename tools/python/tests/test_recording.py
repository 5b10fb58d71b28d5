"""Recordings as they stand in folders, and what is wrong with them."""
import contextlib
import hashlib
import io
import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import marey
from marey.__main__ import main


class Session(unittest.TestCase):
    """A session's folder, which tests fill."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "session=walk"
        self.path.mkdir()
        (self.path / "session.json").write_text('{"session": "walk"}')

    def stream(self, label="imu@1", count=4):
        """A stream with a number and a list of numbers, in tenths of a unit."""
        index = pd.DatetimeIndex(pd.to_datetime(np.arange(count) * 10_000, unit="us", utc=True), name="time").as_unit("us")
        common = {"device_time_ns": np.arange(count), "epoch": np.zeros(count, np.int32),
                  "time_err_us": np.ones(count, np.float32), "seq": np.arange(count)}
        table = pa.Table.from_pandas(pd.DataFrame({**common, "x": np.arange(count, dtype=np.int16)}, index=index))
        acc = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(3 * count, dtype=np.int16)), 3)
        declared = {"unit": "m/s2", "scale": "0.1", "offset": "1"}
        x = table.schema.get_field_index("x")
        table = table.set_column(x, pa.field("x", pa.int16(), metadata=declared), table.column("x"))
        table = table.add_column(x + 1, pa.field("acc", acc.type, metadata=declared), acc)
        folder = self.path / f"streams/stream={label}/device=phone"
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "part-g0001-000000.parquet")

    def receipt(self):
        """A manifest and a receipt of what is there, and of a log."""
        def hashes(path):
            return {"path": path.relative_to(self.path).as_posix(), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

        import blake3

        log = self.path / "logs/phone"
        log.mkdir(parents=True)
        segments = []
        for name in ("000001.mlog", "000002.mlog"):
            (log / name).write_bytes(name.encode() * 10)
            sealed = blake3.blake3((log / name).read_bytes()).hexdigest() if name == "000001.mlog" else None
            segments.append({"path": f"logs/phone/{name}", "bytes": str((log / name).stat().st_size), "blake3": sealed})
        parts = [hashes(path) for path in sorted((self.path / "streams").rglob("*.parquet"))]
        manifest = {"streams": [{"parts": parts}], "logs": [{"segments": segments}]}
        (self.path / "manifest.json").write_text(json.dumps(manifest))
        said = {"session": "walk", "generation": 1, "complete": True, "streams": [], "manifest": hashes(self.path / "manifest.json")}
        (self.path / "receipt-0001.json").write_text(json.dumps(said))

    def session(self):
        return marey.open(self.path).session()

    def check(self):
        with mock.patch("sys.argv", ["marey", "check", str(self.path)]), contextlib.redirect_stdout(io.StringIO()) as out:
            return main(), out.getvalue()


class Folder(Session):
    def test_lists_are_scaled_like_numbers(self):
        self.stream()
        stream = self.session().stream("imu")
        frame = stream.df(scaled=True)
        np.testing.assert_allclose(frame["x"], [1.0, 1.1, 1.2, 1.3])
        np.testing.assert_allclose(np.stack(frame["acc"].to_list()), np.arange(12).reshape(4, 3) / 10 + 1)
        self.assertEqual(frame["acc"].iloc[0].dtype, np.float64)
        self.assertEqual(list(stream.df()["acc"].iloc[1]), [3, 4, 5], "as the sensor gave them")
        acc = stream.quantities()["acc"]
        self.assertEqual((acc.magnitude.shape, str(acc.units)), ((4, 3), "meter / second ** 2"))
        self.assertEqual(stream.quantities(end="1969-01-01")["acc"].magnitude.shape, (0, 3))
        out = self.session().align(["phone/imu"], hz=200)
        np.testing.assert_allclose(out["phone/imu.acc"].iloc[1], [1.0, 1.1, 1.2])

    def test_versions_of_a_stream_are_not_mixed(self):
        self.stream("imu@1")
        self.stream("imu@2")
        session = self.session()
        out = session.align(session.streams(), hz=100)
        self.assertIn("phone/imu@1.x", out.columns)
        self.assertIn("phone/imu@2.x", out.columns)
        self.assertIn("phone/imu.x", session.align(session.streams("imu@2"), hz=100).columns)
        for twice in (["imu@1", "imu@1"], [session.stream("imu@1")] * 2):
            with self.assertRaisesRegex(ValueError, "imu@1"):
                session.align(twice, hz=100)

    def test_a_recording_is_checked_though_its_streams_are_gone(self):
        self.stream()
        self.assertEqual(self.check()[0], 2, "streams without a receipt")
        self.receipt()
        self.assertEqual(self.check()[0], 0, self.check())
        self.assertFalse(self.session().is_live)
        (self.path / "streams").rename(self.path / "elsewhere")
        code, said = self.check()
        self.assertEqual((code, "it is gone" in said, "not sealed" in said), (1, True, False), said)

    def test_a_segment_that_was_cut_counts_up_to_there(self):
        import blake3

        self.stream()
        self.receipt()
        log, manifest = self.path / "logs/phone/000001.mlog", self.path / "manifest.json"
        whole, said = log.read_bytes(), json.loads(manifest.read_text())
        segment = said["logs"][0]["segments"][0]
        segment.update(blake3=None, cut={"bytes": "70", "blake3": blake3.blake3(whole[:70]).hexdigest()})
        manifest.write_text(json.dumps(said))
        receipt = json.loads((self.path / "receipt-0001.json").read_text())
        receipt["manifest"]["sha256"] = hashlib.sha256(manifest.read_bytes()).hexdigest()
        (self.path / "receipt-0001.json").write_text(json.dumps(receipt))
        for there, trouble in ((whole, None), (whole[:70], None), (whole[:69], "69 bytes, of which 70 count"),
                               (whole[:9] + b"!" + whole[10:], "the BLAKE3 of its first 70 bytes")):
            log.write_bytes(there)
            code, out = self.check()
            self.assertEqual((code, trouble is None or trouble in out), (int(trouble is not None), True), out)

    def test_a_sealed_segment_does_not_grow(self):
        self.stream()
        self.receipt()
        for name, problems in (("000002.mlog", 0), ("000001.mlog", 1)):
            with (self.path / "logs/phone" / name).open("ab") as file:
                file.write(b"more")
            self.assertEqual(len(self.session().receipt().check().problems), problems, name)

    def test_a_receipt_that_lacks_something_is_said_to_be_none(self):
        self.stream()
        self.receipt()
        file = self.path / "receipt-0001.json"
        said = json.loads(file.read_text())
        for key in ("complete", "streams", "manifest"):
            file.write_text(json.dumps({other: value for other, value in said.items() if other != key}))
            with self.assertRaisesRegex(ValueError, f"no whole receipt: it says nothing of '{key}'"):
                self.session().receipt().check()
            code, told = self.check()
            self.assertEqual((code, "Traceback" in told), (2, False), told)


if __name__ == "__main__":
    unittest.main()
