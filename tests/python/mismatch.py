"""What every check here ends in: silence, or one sentence."""
from typing import Any


class Mismatch(Exception):
    """Something that Marey wrote is not what it says, or not what a reader finds."""


def require(fact: bool, sentence: str, *values: Any) -> None:
    if not fact:
        raise Mismatch(sentence % values)
