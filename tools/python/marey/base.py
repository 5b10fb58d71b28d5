"""What device and link share: their errors, and the device's clock."""
from __future__ import annotations

import time

#: Goes on while the machine sleeps, until its next boot.
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_ns() -> int:
    """Device time."""
    return time.clock_gettime_ns(CLOCK)


class DeviceError(Exception):
    """The device can't go on; its buffer keeps what the hub does not have."""


class Refused(DeviceError):
    """The hub refused, and trying again with nothing changed changes nothing. :attr:`code` is one of the registry's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"the hub refused ({code}): {message}")
        self.code = code
