"""A device and its connection: nothing is said to be on the hub that is not, and nothing ends what goes on."""
import tempfile
import threading
import unittest
from pathlib import Path

from marey import frames, link
from marey.buffer import Buffer
from marey.frames import Field

from .hub import Hub
from .test_buffer import begun, fill


class Connected(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.hub = Hub(folder.name)
        self.addCleanup(self.hub.close)
        self.path = Path(folder.name) / "board.buffer"

    def start(self, **how):
        device = self.hub.device(**how)
        self.addCleanup(device.close, 0)
        self.hub.welcome()
        return device

    def test_what_a_session_refused_is_not_told_to_be_durable(self):
        device = self.start(buffer=self.path, buffer_bytes_max=4000)
        ecg = device.stream("ecg", [Field("mv")], rate_hz=1)
        channel = self.hub.record()
        device.wait_recording()
        self.assertTrue(ecg.push(1.0))
        self.hub.frame()
        self.hub.say(link.REFUSED_, {"code": "session_closed", "message": "it is over"}, channel)
        self.assertTrue(device.wait_stopped(20))
        self.assertEqual((device.kept(), device.pending), ({"walk": "session_closed: it is over"}, 0))
        self.assertFalse(device.flush(20))
        with self.assertRaisesRegex(ValueError, "kept: walk"):
            device.discard("wlak")
        self.assertEqual(device.discard("walk"), 1)
        self.assertEqual((device.kept(), device.flush(20)), ({}, True))
        self.assertTrue(device.close(20))

    def test_nor_by_its_end(self):
        device = self.start(buffer=self.path)
        ecg = device.stream("ecg", [Field("mv")])
        channel = self.hub.record()
        device.wait_recording()
        self.assertTrue(ecg.push(1.0), "not cut yet")
        self.hub.say(link.CLOSED, {"reason": "session_closed"}, channel)
        self.assertTrue(device.wait_stopped(20))
        self.assertFalse(device.close(20))
        buffer = Buffer(self.path, 1 << 20)
        [epoch] = buffer.epochs()
        self.assertEqual((epoch.refused, epoch.streams[1]["captured"]), ("session_closed", 1), "what was captured is kept")
        buffer.close()

    def test_a_sample_that_no_frame_holds_is_refused_and_nothing_ends(self):
        device = self.start()
        notes = device.stream("notes", [Field("raw", "binary")])
        self.hub.record()
        device.wait_recording()
        for give in (lambda: notes.push(bytes(2 << 20)), lambda: notes.extend([1, 2, 3], [b"", bytes(1 << 20), b""])):
            with self.assertRaisesRegex(ValueError, "longer than a frame"):
                give()
        self.assertTrue(notes.push(b"short"))
        sequence, payload = self.hub.frame()
        self.assertEqual((sequence, payload[16:21]), (0, b"short"))
        half = bytes((1 << 19) + 1)
        self.assertTrue(notes.extend([1 << 62, 1 << 62], [half, half]), "each has a frame of its own")
        self.assertEqual([self.hub.frame()[0] for _ in range(2)], [1, 2])
        self.assertEqual(device.recording, "walk")

    def left_behind(self, count):
        """A buffer of a process before, with an epoch of so many frames."""
        buffer = Buffer(self.path, 1 << 20)
        fill(buffer, begun(buffer), count)
        buffer.close()

    def test_what_the_hub_lost_is_sent_again(self):
        self.left_behind(10)
        device = self.start(buffer=self.path)
        for connection in range(2):
            if connection:
                self.hub.welcome()  # the first one breaks before anything is acknowledged
            channel, said = self.hub.expect(link.OPEN)
            self.hub.opened(channel, 8, holes={"data": [["2", "4"]]}, recording=False)
            self.assertEqual([self.hub.frame()[0] for _ in range(4)], [2, 3, 8, 9], connection)
        self.assertEqual(said["highest_ack"]["data"], "8")
        self.hub.ack(channel, 8, 0, resolved=self.hub.bytes - 1)
        self.hub.ack(channel, 9, 0, resolved=self.hub.bytes - 1)
        self.assertFalse(device.flush(0))
        self.hub.ack(channel, 10, 0, resolved=self.hub.bytes)
        self.assertTrue(device.flush(20))
        self.assertEqual((device.acknowledged, device.connections), (10, 2))

    def test_also_where_nothing_follows(self):
        self.left_behind(5)
        device = self.start(buffer=self.path)
        channel, _ = self.hub.expect(link.OPEN)
        self.hub.opened(channel, 5, holes={"data": [["1", "2"], ["3", "4"]]}, recording=False)
        self.assertEqual([self.hub.frame()[0] for _ in range(2)], [1, 3])
        self.hub.ack(channel, 5, 0, resolved=self.hub.bytes // 2)
        self.assertFalse(device.flush(0))
        self.hub.ack(channel, 5, 0, resolved=self.hub.bytes)
        self.assertTrue(device.flush(20))

    def test_a_full_buffer_is_told(self):
        device = self.start(buffer_bytes_max=400)
        ecg = device.stream("ecg", [Field("mv")], rate_hz=1)
        self.hub.record()
        device.wait_recording()
        taken = [ecg.push(1.0) for _ in range(8)]
        self.assertEqual((taken[0], taken[-1], taken.count(False)), (True, False, ecg.lost))

    def test_a_join_asks_anew_for_what_was_refused(self):
        self.start()
        self.hub.say(link.JOIN, {"session": "walk"})
        channel, first = self.hub.expect(link.OPEN)
        self.hub.say(link.REFUSED_, {"code": "not_started", "message": "wait for a join"}, channel)
        self.hub.say(link.JOIN, {"session": "walk"})
        self.assertEqual(self.hub.expect(link.OPEN)[1], first)

    def test_a_backlog_does_not_keep_a_session_waiting(self):
        for _ in range(link.CHANNELS_MAX + 4):
            self.left_behind(1)
        self.start(buffer=self.path)
        for _ in range(link.CHANNELS_MAX - 1):
            self.hub.opened(self.hub.expect(link.OPEN)[0])
        self.hub.record("now")

    def test_declaring_and_probing_take_turns(self):
        device = self.start()
        self.hub.record()
        device.wait_recording()
        live, connection = device._live, device._link
        frames_before = live.next[frames.LANE_LIVE]
        with device._changed:  # as while a stream is declared
            connection._rows = [frames.probe_row(2, 1, 2, 3, 4, 5, 6, bytes(8))] * link.ROWS_MAX
            other = threading.Thread(target=connection._probe)
            other.start()
            other.join(0.2)
            self.assertEqual(live.next[frames.LANE_LIVE], frames_before)
        other.join()
        self.hub.frame(frames.PROBES)


if __name__ == "__main__":
    unittest.main()
