"""What a device keeps: nothing that was numbered is lost, doubled or numbered again."""
import tempfile
import unittest
from pathlib import Path

from marey import frames
from marey.buffer import Buffer


def fill(buffer, epoch, count):
    seed = frames.identity("board", epoch.session, bytes.fromhex(epoch.epoch))
    return [buffer.add(epoch, seed, frames.DATA, frames.LANE_DATA, bytes(16), i, stream=1, count=1, index=i)
            for i in range(count)]


def begun(buffer):
    epoch = buffer.begin("walk", "00" * 16)
    epoch.streams[1] = {"name": "ecg", "captured": 0, "lost": 0, "next_index": 0, "frames": 0, "digest": "00" * 32}
    return epoch


class Kept(unittest.TestCase):
    def test_frames_and_counters_outlive_the_process(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "board.buffer"
            buffer = Buffer(path, 1 << 20)
            epoch = begun(buffer)
            fill(buffer, epoch, 5)
            self.assertEqual(buffer.forget(epoch, 0, 2, []), 2)
            buffer.close()
            again = Buffer(path, 1 << 20)
            [found] = again.epochs()
            self.assertEqual((found.next, found.durable, found.streams), ([5, 0], [2, 0], epoch.streams))
            self.assertEqual([row[0] for row in again.after(found, 0, 0, 9)], [2, 3, 4])
            self.assertEqual((again.waiting(found), again.bytes), (3, 3 * 64))
            again.close()

    def test_holes_are_kept(self):
        buffer = Buffer(None, 1 << 20)
        epoch = begun(buffer)
        fill(buffer, epoch, 10)
        self.assertEqual(buffer.forget(epoch, 0, 8, [(5, 6), (2, 4)]), 5)
        self.assertEqual([row[0] for row in buffer.after(epoch, 0, 0, 99)], [2, 3, 5, 8, 9])
        buffer.forget(epoch, 0, 10, [])
        self.assertEqual((buffer.waiting(epoch), buffer.bytes), (0, 0))
        buffer.drop(epoch)
        self.assertEqual(buffer.epochs(), [])

    def test_an_epoch_with_frames_is_not_dropped(self):
        buffer = Buffer(None, 1 << 20)
        epoch = begun(buffer)
        fill(buffer, epoch, 1)
        buffer.drop(epoch)
        self.assertEqual(len(buffer.epochs()), 1)

    def test_without_room_nothing_is_numbered(self):
        buffer = Buffer(None, 200)
        epoch = begun(buffer)
        self.assertEqual(fill(buffer, epoch, 5), [True, True, True, False, False])
        self.assertEqual((epoch.next, epoch.streams[1]["captured"]), ([3, 0], 3))

    def test_what_the_disk_refuses_is_not_numbered(self):
        with tempfile.TemporaryDirectory() as folder:
            buffer = Buffer(Path(folder) / "board.buffer", 1 << 20)
            epoch = begun(buffer)
            fill(buffer, epoch, 2)
            before = (list(epoch.next), dict(epoch.streams[1]))
            buffer._base.execute("PRAGMA query_only=ON")
            with self.assertRaises(Exception):
                fill(buffer, epoch, 1)
            self.assertEqual((list(epoch.next), dict(epoch.streams[1])), before)
            buffer._base.execute("PRAGMA query_only=OFF")
            self.assertEqual(fill(buffer, epoch, 1), [True])
            buffer.close()

    def test_another_file_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "notes.txt"
            path.write_text("this is no buffer at all, and long enough to have a page\n" * 100)
            with self.assertRaisesRegex(OSError, "no buffer of a device"):
                Buffer(path, 1 << 20)
            self.assertTrue(path.read_text().startswith("this is no buffer"))


if __name__ == "__main__":
    unittest.main()
