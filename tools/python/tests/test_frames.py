"""The codec against the specification's own vectors, and what it refuses."""
import hashlib
import json
import struct
import unittest
import zlib
from pathlib import Path

from marey import frames
from marey.frames import Field

VECTORS = Path(__file__).resolve().parents[3] / "format-spec/vectors/frame"


class Frames(unittest.TestCase):
    def test_every_whole_vector_is_made_again(self):
        made = 0
        for path in sorted(VECTORS.glob("*.json")):
            said = json.loads(path.read_text())
            whole, head = path.with_suffix(".bin").read_bytes(), said.get("header")
            if head is None or head["flags"]:
                continue
            seed = frames.identity(said["device"], said["session"], bytes.fromhex(said["epoch"]))
            again, crc = frames.frame(
                seed, head["kind"], head["lane"], int(head["sequence"]), whole[48:len(whole) - head["padding"]],
                int(head["first_time_ns"]), stream=head["stream"], count=head["count"], index=int(head["first_index"]))
            self.assertEqual((again, crc), (whole, head["crc"]), path.name)
            made += 1
        self.assertGreater(made, 15)

    def test_a_frame_is_what_the_specification_says(self):
        seed = zlib.crc32(b"phone\0walk\0" + bytes(range(16)))
        self.assertEqual(frames.identity("phone", "walk", bytes(range(16))), seed)
        made, crc = frames.frame(seed, frames.DATA, 0, 7, b"abc", -5, stream=2, count=1, index=9)
        self.assertEqual(len(made), 56)
        self.assertEqual(made[:4], b"\xf5MF1")
        self.assertEqual(struct.unpack_from("<I", made, 4)[0], zlib.crc32(made[8:], seed))
        self.assertEqual(crc, zlib.crc32(made[8:], seed))
        self.assertEqual((made[15], made[51:]), (5, bytes(5)))
        chained = hashlib.sha256(bytes(32) + struct.pack("<IQ", crc, 7)).hexdigest()
        self.assertEqual(frames.chained("00" * 32, crc, 7), chained)

    def test_columns_are_contiguous_and_filled(self):
        fields = [Field("a", "u8"), Field("s", "utf8"), Field("v", "i16", length=3), Field("b", "bool")]
        data = frames.columns(fields, [1, 2], [[7, 8], ["é", "xyz"], [(1, 2, 3), (4, 5, 6)], [True, False]])
        offsets = struct.pack("<III", 0, 2, 5) + bytes(4)
        self.assertEqual(data, struct.pack("<qq", 1, 2) + b"\7\x08" + bytes(6) + offsets + "éxyz".encode() + bytes(3)
                         + struct.pack("<6h", 1, 2, 3, 4, 5, 6) + bytes(4) + b"\1\0" + bytes(6))

    def test_what_does_not_fit_is_named(self):
        cases = [([Field("a", "u8")], [[300]], "'a' (u8)"), ([Field("a", "i32")], [["x"]], "'a' (i32)"),
                 ([Field("a", "f32", length=2)], [[(1.0,)]], "2 elements"), ([Field("a", "utf8")], [[3]], "'a' (utf8)")]
        for fields, values, what in cases:
            with self.assertRaisesRegex(ValueError, what.replace("(", r"\(").replace(")", r"\)")):
                frames.columns(fields, [0], values)
        for name in ("Time", "time", "a-b", "", "x" * 33, "a\n"):
            with self.assertRaises(ValueError):
                frames.declaration(name, [Field("a")], None, {})
            with self.assertRaises(ValueError):
                frames.declaration("s", [Field(name)], None, {})
        for fields in ([], [Field("a"), Field("a")], [Field("a", "f16")], [Field("a", "utf8", length=2)]):
            with self.assertRaises(ValueError):
                frames.declaration("s", fields, None, {})
        with self.assertRaises(ValueError):
            frames.declaration("s", [Field("a")], float("nan"), {})
        with self.assertRaisesRegex(ValueError, "fewer samples"):
            frames.frame(0, frames.DATA, 0, 0, bytes(1 << 20), 0)

    def test_answers_of_anybody_else_are_dropped(self):
        key = frames.TimeKey("00000000000000ff", "11" * 32)
        request = key.request(5, 6)
        self.assertEqual((len(request), request[:5]), (80, b"MTP1\1"))
        self.assertIsNone(key.answer(request), "a request is no answer")
        head = b"MTP1\2\0\0\0" + request[8:32] + struct.pack("<Qqq", 1, 7, 8) + b"tagtagta"
        reply = head + key._mac(head)
        self.assertEqual(key.answer(reply), (5, 6, 1, 7, 8, b"tagtagta"))
        for at in range(80):
            self.assertIsNone(key.answer(reply[:at] + bytes([reply[at] ^ 1]) + reply[at + 1:]), at)
        self.assertIsNone(key.answer(reply[:79]))


if __name__ == "__main__":
    unittest.main()
