#!/usr/bin/env python3
"""A laboratory's own script as a device: two sensors, simulated, recorded while the hub has a session running.

    record.py BUNDLE [--buffer FILE] [--minutes M] [--speed X]

With --speed 60 ten minutes of signals are made in ten seconds, with the device times that they would have had. It needs the
standard library alone. What it prints at the end is what it knows to have captured.
"""
import argparse
import json
import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as it stands in a clone; installed, this line can go
import marey  # noqa: E402

HEART_HZ, MOTION_HZ = 250, 50


def heart_mv(i: int) -> float:
    """A beat a second, on a slow wander."""
    phase = (i % HEART_HZ) / HEART_HZ
    return 1.2 * math.exp(-(((phase - 0.3) / 0.02) ** 2)) + 0.1 * math.sin(i / 900)


def motion(i: int) -> tuple[float, float, int]:
    """Two axes of a walk, and the number of steps so far."""
    return 3 * math.sin(i * 0.2), 9.81 + 2 * math.cos(i * 0.4), i // 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--buffer", type=Path)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--speed", type=float, default=1.0)
    args = parser.parse_args()
    with marey.Device(args.bundle, buffer=args.buffer) as device:
        heart = device.stream("heart", [marey.Field("lead", "f32", "mV")], rate_hz=HEART_HZ)
        moves = device.stream("motion", [marey.Field("x", "f32", "m/s2"), marey.Field("y", "f32", "m/s2"),
                                         marey.Field("steps", "i32")], rate_hz=MOTION_HZ)
        print("recording", device.wait_recording(), flush=True)
        seconds = int(args.minutes * 60)
        ends_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        begins_ns = ends_ns - int(seconds * 1e9 * (1 - 1 / args.speed))
        done = 0
        for second in range(seconds):
            if not device.recording:
                break
            device.event("second", str(second)) if second % 60 == 0 else None
            for rate, stream, make in ((HEART_HZ, heart, lambda i: (heart_mv(i),)), (MOTION_HZ, moves, motion)):
                rows = range(second * rate, (second + 1) * rate)
                times = [begins_ns + i * 1_000_000_000 // rate for i in rows]
                stream.extend(times, *zip(*map(make, rows)))
            done = second + 1
            time.sleep(max(0.0, 1 / args.speed))
        print(json.dumps({"seconds": done, "begins_ns": str(begins_ns), "durable": device.flush(120),
                          "acknowledged": device.acknowledged, "connections": device.connections}), flush=True)


if __name__ == "__main__":
    main()
