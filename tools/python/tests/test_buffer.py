"""What a device keeps: nothing that was numbered is lost, doubled or numbered again."""
import random
import sqlite3
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
            self.assertEqual((found.waiting, again.bytes), (3, 3 * 64))
            again.close()

    def test_holes_are_kept(self):
        buffer = Buffer(None, 1 << 20)
        epoch = begun(buffer)
        fill(buffer, epoch, 10)
        self.assertEqual(buffer.forget(epoch, 0, 8, [(5, 6), (2, 4)]), 5)
        self.assertEqual([row[0] for row in buffer.after(epoch, 0, 0, 99)], [2, 3, 5, 8, 9])
        buffer.forget(epoch, 0, 10, [])
        self.assertEqual((epoch.waiting, buffer.bytes), (0, 0))
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

    def test_a_transaction_that_fails_half_way_leaves_nothing(self):
        buffer = Buffer(None, 1 << 20)
        epoch = begun(buffer)
        fill(buffer, epoch, 2)
        before = (epoch.said(), epoch.waiting, buffer.bytes)
        buffer._base.execute("CREATE TRIGGER full BEFORE UPDATE ON epochs WHEN (SELECT count(*) FROM frames) > 3 "
                             "BEGIN SELECT RAISE(ABORT, 'no room'); END")
        with self.assertRaisesRegex(sqlite3.Error, "no room"), buffer.together():
            fill(buffer, epoch, 2)  # the second one's frame goes in, its counters do not
        self.assertEqual((epoch.said(), epoch.waiting, buffer.bytes), before)
        self.assertEqual([row[0] for row in buffer.after(epoch, 0, 0, 9)], [0, 1])
        buffer._base.execute("DROP TRIGGER full")
        fill(buffer, epoch, 1)
        self.assertEqual([row[0] for row in buffer.after(epoch, 0, 0, 9)], [0, 1, 2], "its number was free")

    def test_what_was_refused_takes_nobodys_room(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "board.buffer"
            buffer = Buffer(path, 200)
            gone, next_ = begun(buffer), begun(buffer)
            self.assertEqual(fill(buffer, gone, 4), [True, True, True, False])
            self.assertEqual(fill(buffer, next_, 1), [False])
            buffer.refuse(gone, "session_closed: it is over")
            self.assertEqual(fill(buffer, next_, 1), [True])
            buffer.close()
            buffer = Buffer(path, 200)
            gone, next_ = buffer.epochs()
            self.assertEqual((buffer.bytes, gone.waiting, gone.refused), (64, 3, "session_closed: it is over"))
            self.assertEqual(buffer.discard(gone), 3)
            self.assertEqual((buffer.epochs(), buffer.bytes), ([next_], 64))
            buffer.close()

    def test_counts_are_those_of_the_file(self):
        chance, buffer = random.Random(1), Buffer(None, 1 << 12)
        epoch = begun(buffer)
        for _ in range(300):
            if chance.random() < 0.6:
                fill(buffer, epoch, 1)
            else:
                durable = chance.randint(0, epoch.next[0])
                buffer.forget(epoch, 0, durable, [(a, a + 2) for a in range(0, durable, 7)])
            [found] = buffer._base.execute("SELECT count(*), coalesce(sum(length(bytes)), 0) FROM frames")
            self.assertEqual((epoch.waiting, epoch.bytes), found)
            self.assertEqual(buffer.bytes, epoch.bytes)

    def test_another_file_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "notes.txt"
            path.write_text("this is no buffer at all, and long enough to have a page\n" * 100)
            with self.assertRaisesRegex(OSError, "no buffer of a device"):
                Buffer(path, 1 << 20)
            self.assertTrue(path.read_text().startswith("this is no buffer"))


if __name__ == "__main__":
    unittest.main()
