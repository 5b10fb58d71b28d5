"""Recordings of Marey in Python.

    import marey

    walk = marey.open("lab").session("walk-01")
    imu = walk.stream("imu", device="phone").df()
    both = walk.align(["phone/imu", "watch/gsr"], hz=50, max_gap="200ms")
    print(walk.receipt().check())

:func:`open` reads folders and needs pyarrow; whatever gives a DataFrame needs pandas. :class:`Device` records into a hub,
from the standard library alone.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .device import Device, DeviceError, Refused
from .frames import Field

if TYPE_CHECKING:
    from .receipt import Check, Receipt
    from .recording import Hub, NotFound, Session, Stream, open
    from .views import views

__all__ = ["Check", "Device", "DeviceError", "Field", "Hub", "NotFound", "Receipt", "Refused", "Session", "Stream", "open",
           "views"]
__version__ = "0.1.0"

_READERS = {"Check": "receipt", "Receipt": "receipt", "Hub": "recording", "NotFound": "recording",
            "Session": "recording", "Stream": "recording", "open": "recording", "views": "views"}


def __getattr__(name: str) -> Any:
    # A laboratory's sender has no pyarrow, and needs none: what reads is imported when it is asked for.
    if name in _READERS:
        import importlib

        found = getattr(importlib.import_module("." + _READERS[name], __name__), name)
        globals()[name] = found  # also where a module of the same name was put there by its import
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
