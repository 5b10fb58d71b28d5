"""UCUM codes as units of pint."""
from __future__ import annotations

import re
from typing import Any

_NAMES = {"Cel": "degC", "[degF]": "degF", "deg": "degree", "%": "percent", "1": "dimensionless", "[g]": "standard_gravity",
          "[ppm]": "ppm", "[ppb]": "ppb", "Ohm": "ohm", "mm[Hg]": "mmHg", "m[Hg]": "meter_Hg", "'": "arcminute",
          "''": "arcsecond", "{#}": "dimensionless", "a": "year", "mo": "month", "wk": "week", "d": "day", "h": "hour",
          "min": "minute", "bpm": "1/minute"}
_PREFIXED_OHM = re.compile(r"([kMGmu]?)Ohm")


def to_pint(ucum: str) -> str:
    """The expression that pint reads for a UCUM code: `m/s2` is `m/s**2`, `Cel` is `degC`."""
    def factor(text: str) -> str:
        text = re.sub(r"\{[^}]*\}", "", text)  # annotations say what is counted, and have no unit
        if text in ("", "1"):
            return "1"
        if text in _NAMES:
            return _NAMES[text]
        if ohm := _PREFIXED_OHM.fullmatch(text):
            return ohm[1] + "ohm"
        power = re.fullmatch(r"(.*?[A-Za-z\]%'])([+-]?[0-9]+)", text)
        return f"{factor(power[1])}**{int(power[2])}" if power else text

    if ucum in _NAMES:
        return _NAMES[ucum]
    pieces = re.split(r"([./])", ucum)
    return "".join({".": "*", "/": "/"}.get(piece) or factor(piece) for piece in pieces)


def quantity(values: Any, ucum: str) -> Any:
    """An array with its unit."""
    try:
        import pint
    except ImportError:
        raise ImportError("units need pint: pip install pint") from None
    registry = pint.get_application_registry()
    try:
        return registry.Quantity(values, to_pint(ucum))
    except Exception as error:  # pint has a class of its own for each trouble
        raise ValueError(f"pint does not know the unit {ucum!r}: {error}") from None
