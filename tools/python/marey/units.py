"""UCUM codes as units of pint."""
from __future__ import annotations

import re
from typing import Any

_NAMES = {"Cel": "degC", "[degF]": "degF", "deg": "degree", "%": "percent", "1": "dimensionless", "[g]": "standard_gravity",
          "[ppm]": "ppm", "[ppb]": "ppb", "Ohm": "ohm", "mm[Hg]": "mmHg", "m[Hg]": "meter_Hg", "'": "arcminute",
          "''": "arcsecond", "{#}": "dimensionless", "a": "year", "mo": "month", "wk": "week", "d": "day", "h": "hour",
          "min": "minute", "bpm": "1/minute"}
_POWER_OF_TEN = re.compile(r"(^|[./])10[*^]([+-]?[0-9]+)?(?=[./]|$)")
_PREFIXED_OHM = re.compile(r"([kMGmu]?)Ohm")


def to_pint(ucum: str) -> str:
    """The expression that pint reads for a UCUM code: `m/s2` is `m/s**2`, `Cel` is `degC`."""
    def factor(text: str) -> str:
        text = re.sub(r"\{[^}]*\}", "", text)  # annotations say what is counted, and have no unit
        if text in ("", "1"):
            return "1"
        if text in _NAMES:
            return _NAMES[text]
        if ten := _POWER_OF_TEN.fullmatch(text):
            return f"10**{int(ten[2] or 1)}"
        if ohm := _PREFIXED_OHM.fullmatch(text):
            return ohm[1] + "ohm"
        power = re.fullmatch(r"(.*?[A-Za-z\]%'])([+-]?[0-9]+)", text)
        return f"{factor(power[1])}**{int(power[2])}" if power else text

    if ucum in _NAMES:
        return _NAMES[ucum]
    pieces = re.split(r"([./])", ucum)
    return "".join({".": "*", "/": "/"}.get(piece) or factor(piece) for piece in pieces)


def quantity(values: Any, ucum: str) -> Any:
    """An array with its unit. Powers of ten go into the values: pint has units alone."""
    import numpy as np

    try:
        import pint
    except ImportError:
        raise ImportError("units need pint: pip install pint") from None
    registry = pint.get_application_registry()
    power = sum((-1 if sign == "/" else 1) * int(digits or 1) for sign, digits in _POWER_OF_TEN.findall(ucum))
    try:
        unit = to_pint(_POWER_OF_TEN.sub(r"\g<1>1", ucum))
        return registry.Quantity(values if power == 0 else np.asarray(values) * 10.0**power, unit)
    except Exception as error:  # pint has a class of its own for each trouble
        raise ValueError(f"pint does not know the unit {ucum!r}: {error}") from None
