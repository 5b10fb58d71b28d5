"""A session as NWB, opened with pynwb."""
import contextlib
import datetime
import io
import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import marey
from marey.__main__ import main
from marey.recording import NotFound

START_NS = 1_795_354_546_073_482_627
US = START_NS // 1000


class Nwb(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "session=walk"
        self.path.mkdir()
        self.said = {"session": "walk", "state": "sealed", "generation": 2, "max_drift_ppm": 100.0, "anchor": {"utc_ns": str(START_NS)},
                     "metadata": {"participant": "P-07", "species": "Homo sapiens", "lab": "gait", "experimenter": "A. B.; C. D.", "note": "x"}}
        self.say()

    def session(self):
        return marey.open(self.path).session()

    def say(self):
        (self.path / "session.json").write_text(json.dumps(self.said))

    def part(self, label, name, columns, times_us, *, seq=None, metadata=None):
        """A part of a stream; columns are arrays of Arrow by name."""
        count = len(times_us)
        common = {"time": pa.array(times_us, pa.timestamp("us", "UTC")), "device_time_ns": pa.array(np.arange(count) * 7 - 2**62),
                  "epoch": pa.array(np.zeros(count, np.int32)), "time_err_us": pa.array(np.linspace(1, 2, count, dtype=np.float32)),
                  "seq": pa.array(np.arange(count) if seq is None else seq)}
        table = pa.table({**common, **columns})
        fields = [f.with_metadata((metadata or {}).get(f.name)) for f in table.schema]
        folder = self.path / f"streams/stream={label}/device=phone"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_arrays(table.columns, schema=pa.schema(fields)), folder / f"part-{name}.parquet")
        return {"path": (folder / f"part-{name}.parquet").relative_to(self.path).as_posix()}

    def publish(self, parts):
        """Manifest, receipt and the tables beside; `parts` by stream."""
        streams = [{"stream": label, "device": "phone", "parts": of} for label, of in parts.items()]
        (self.path / "manifest.json").write_text(json.dumps({"generation": 2, "streams": streams}))
        (self.path / "receipt-0002.json").write_text(json.dumps({"complete": False, "streams": []}))
        at = pa.array([US + 1, US + 2], pa.timestamp("us", "UTC"))
        tables = {
            "events": {"time": at, "time_err_us": pa.array([0.5, np.inf], pa.float32()), "device": ["phone", "phone"], "source": ["hub", "device"],
                       "epoch": pa.array([-1, 0], pa.int32()), "seq": [1, 2], "stamp_ns": [5, 6], "stream": ["", "imu@1"],
                       "kind": ["mark", "lap"], "text": ["go", None], "duration_s": [np.nan, 0.25]},
            "gaps": {"device": ["watch", "phone", "board"], "stream": ["imu@1"] * 3, "epoch": pa.array([0, 0, 0], pa.int32()),
                     "first_seq": [0, 4, 9], "last_seq": [6, 6, 9], "samples": [7, 3, 1], "cause": ["not received", "device off", "damage"],
                     "time": pa.array([0, US + 2, US + 1], at.type), "until": pa.array([0, US + 2, US + 1], at.type),
                     "time_err_us": pa.array([np.inf, 3.5, 1], pa.float32())},
            "channels": {"device": ["phone"], "stream": ["imu@1"], "position": pa.array([0], pa.int32()), "channel": ["acc_x"],
                         "unit": pa.array([None], pa.string()), "scale": [0.1], "description": ["left"]},
            "clock_map": {"device": pa.array([], pa.string()), "rate": pa.array([], pa.float64())},
        }
        for name, columns in tables.items():
            pq.write_table(pa.table(columns), self.path / f"{name}.parquet")

    def export(self):
        from pynwb import NWBHDF5IO, validate

        from marey.nwb import export

        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        out = Path(folder.name) / "walk.nwb"
        rows = export(self.session(), out)
        self.assertEqual([path.name for path in Path(folder.name).iterdir()], ["walk.nwb"], "nothing is left beside it")
        self.assertEqual(validate(path=str(out)), [])
        opened = NWBHDF5IO(str(out), "r")
        self.addCleanup(opened.close)
        return opened.read(), rows

    def odd(self):
        """Every type that a channel may have, in two parts of which the later one was published first, and a gap between."""
        def columns(begin, count):
            n = np.arange(begin, begin + count)
            xyz = {f"acc_{axis}": pa.array((n * k).astype(np.int16)) for k, axis in enumerate("xyz", 1)}
            return {**xyz, "name": pa.array([f"é{i}" for i in n]), "raw": pa.array([bytes([i, 255]) for i in n]),
                    "on": pa.array(n % 2 == 0), "big": pa.array(n.astype(np.uint64) + np.uint64(2**63)), "f": pa.array(n / 3, pa.float32()),
                    "mag": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(begin * 2, (begin + count) * 2, dtype=np.float64)), 2),
                    "gyr_x": pa.array(n), "gyr_y": pa.array(n.astype(np.int32)), "gyr_z": pa.array(n)}

        metadata = {f"acc_{axis}": {"unit": "m/s2", "scale": "0.1", "offset": "-1", "sensor": "BMI"} for axis in "xyz"}
        late = self.part("imu@1", "g0001-000000", columns(7, 3), [US + 70, US + 80, US + 90], seq=[7, 8, 9], metadata=metadata)
        early = self.part("imu@1", "g0002-000000", columns(0, 4), [US - 10, US, US + 20, US + 20], metadata=metadata)
        self.publish({"imu@1": [early, late]})

    def test_values_and_times_are_those_of_parquet(self):
        self.odd()
        file, rows = self.export()
        self.assertEqual(rows, {"phone/imu@1": 7})
        begins = datetime.datetime(2026, 11, 22, 13, 35, 46, 73482, tzinfo=datetime.timezone.utc)
        self.assertEqual((file.session_start_time, file.timestamps_reference_time), (begins, begins))
        stream = file.acquisition["imu@1.phone"]
        self.assertEqual(sorted(stream.time_series), sorted(["acc", "name", "raw", "on", "big", "f", "mag", "gyr_x", "gyr_y", "gyr_z",
                                                             "time_err_us", "device_time_ns", "epoch", "seq"]))
        n = np.array([0, 1, 2, 3, 7, 8, 9])
        for series in stream.time_series.values():
            np.testing.assert_array_equal(np.round(series.timestamps[:] * 1e6), [-10, 0, 20, 20, 70, 80, 90])
        acc = stream["acc"]
        np.testing.assert_array_equal(acc.data[:], np.stack([n, 2 * n, 3 * n], axis=1))
        self.assertEqual((acc.data.dtype, acc.conversion, acc.offset, acc.unit), (np.int16, 0.1, -1.0, "m/s2"))
        self.assertIn("acc_x, acc_y, acc_z", acc.description)
        self.assertIn("BMI", acc.comments)
        self.assertEqual(list(stream["name"].data[:]), [f"é{i}" for i in n])
        self.assertEqual(list(stream["raw"].data[:]), [f"{i:02x}ff" for i in n])
        np.testing.assert_array_equal(stream["on"].data[:], n % 2 == 0)
        np.testing.assert_array_equal(stream["big"].data[:], n.astype(np.uint64) + np.uint64(2**63))
        np.testing.assert_array_equal(stream["f"].data[:], (n / 3).astype(np.float32))
        np.testing.assert_array_equal(stream["mag"].data[:], np.stack([2.0 * n, 2.0 * n + 1], axis=1))
        self.assertEqual(stream["gyr_x"].data.shape, (7,), "channels of other types are not put together")
        np.testing.assert_array_equal(stream["seq"].data[:], n)
        self.assertEqual(stream["device_time_ns"].data[1], 7 - 2**62)
        error = stream["time_err_us"]
        self.assertEqual((error.unit, error.conversion, error.data.dtype), ("seconds", 1e-6, np.float32))
        self.assertIn("100.0 ppm", error.description)

    def test_gaps_and_events_are_in_it(self):
        self.odd()
        file, _ = self.export()
        gaps = file.intervals["gaps"].to_dataframe()
        self.assertEqual(list(gaps["cause"]), ["damage", "device off", "not received"], "in order of time")
        self.assertTrue(np.isnan(gaps["start_time"][2]) and np.isnan(gaps["stop_time"][2]), "nobody knows when")
        gap = gaps.iloc[1]
        self.assertEqual((gap["start_time"], gap["stop_time"], gap["device"], gap["samples"]), (2e-6, 2e-6, "phone", 3))
        events = file.events["events"].to_dataframe()
        self.assertEqual(list(events.columns)[0], "timestamp", "columns stand as they stood")
        self.assertEqual((list(events["timestamp"]), list(events["text"]), list(events["kind"])), ([1e-6, 2e-6], ["go", ""], ["mark", "lap"]))
        self.assertTrue(np.isnan(events["duration"][0]) and events["duration"][1] == 0.25)
        channel = file.processing["misc"]["channels"].to_dataframe().iloc[0]
        self.assertEqual((channel["unit"], channel["scale"], channel["about"]), ("", 0.1, "left"))
        self.assertNotIn("clock_map", file.processing["misc"].data_interfaces, "a table without rows is left out")
        self.assertEqual((file.subject.subject_id, file.subject.species, file.lab), ("P-07", "Homo sapiens", "gait"))
        self.assertEqual(list(file.experimenter), ["A. B.", "C. D."])
        notes = json.loads(file.notes)
        self.assertEqual((notes["metadata"]["note"], notes["generation"], notes["receipt"]["complete"]), ("x", 2, False))

    def test_one_batch_at_a_time(self):
        from marey.export import batches

        wide = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(200 * 20_000, dtype=np.float32)), 20_000)
        part = self.part("frames@1", "g0001-000000", {"pixels": wide}, US + np.arange(200))
        long = self.part("ecg@1", "g0001-000000", {"mv": pa.array(np.arange(100_000, dtype=np.int16))}, US + np.arange(100_000))
        self.publish({"frames@1": [part], "ecg@1": [long]})
        for of, most in ((part, 8 << 20), (long, 1 << 20)):
            path = self.path / of["path"]
            sizes = [batch.nbytes for batch in batches([path], pq.read_schema(path).names)]
            self.assertTrue(len(sizes) > 2 and max(sizes) <= most, sizes)
        file, _ = self.export()
        pixels = file.acquisition["frames@1.phone"]["pixels"].data
        self.assertLessEqual(pixels.chunks[0] * 20_000 * 4, 1 << 20)
        np.testing.assert_array_equal(pixels[:].ravel(), np.arange(200 * 20_000, dtype=np.float32))
        np.testing.assert_array_equal(file.acquisition["ecg@1.phone"]["mv"].data[:], np.arange(100_000, dtype=np.int16))

    def test_a_file_that_was_read_is_not_kept(self):
        from marey.export import batches

        path = self.path / "long.parquet"
        pq.write_table(pa.table({"x": np.random.default_rng(1).random(2 << 20)}), path, row_group_size=1 << 16)
        self.assertGreater(path.stat().st_size, 16 << 20)
        before, most = pa.total_allocated_bytes(), 0
        for _ in batches([path], ["x"]):
            most = max(most, pa.total_allocated_bytes() - before)
        self.assertLess(most, 6 << 20)

    def test_what_can_not_be_written_is_said_and_leaves_nothing(self):
        from marey.nwb import export

        out = self.path.parent / "walk.nwb"
        with self.assertRaisesRegex(NotFound, "nothing published"):
            export(self.session(), out)
        self.odd()
        out.write_text("mine")
        with self.assertRaisesRegex(FileExistsError, "replaces nothing"):
            export(self.session(), out)
        self.assertEqual(out.read_text(), "mine")
        out.unlink()
        with self.assertRaisesRegex(NotFound, "no folder"):
            export(self.session(), out.parent / "nowhere" / "walk.nwb")
        with mock.patch.dict("sys.modules", {"pynwb.event": None}), self.assertRaisesRegex(ModuleNotFoundError, "pip install"):
            export(self.session(), out)
        with mock.patch("os.link", side_effect=PermissionError(1, "no links")):
            self.assertEqual(export(self.session(), out), {"phone/imu@1": 7})
        out.unlink()
        del self.said["anchor"]
        self.say()
        with self.assertRaisesRegex(ValueError, "no anchor"):
            export(self.session(), out)
        self.assertEqual([path.name for path in self.path.parent.iterdir()], [self.path.name])

    def test_a_shell_writes_it(self):
        self.odd()
        out = self.path.parent / "walk.nwb"
        argv = ["marey", "export-nwb", str(self.path), str(out)]
        for code, says in ((0, "phone/imu@1: 7 rows"), (2, "is there already")):
            said = io.StringIO()
            with mock.patch("sys.argv", argv), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                self.assertEqual(main(), code)
            self.assertIn(says, said.getvalue())


if __name__ == "__main__":
    unittest.main()
