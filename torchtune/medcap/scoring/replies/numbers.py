"""Numbers in answers: 2, 2.0 and "2.00" are one number."""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?")


def number_in(text: str) -> Decimal | None:
    """Read a text that is one number and nothing else.

    Args:
        text: an answer, a reference or an option; white space around it does not count.

    Returns:
        The number, exact; None for any other text, "2 cm", "2,5" and "nan" too.
    """
    text = text.strip()
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def same_number(text: str, other: str) -> bool:
    """Return whether two texts are the same number, however it is written."""
    number = number_in(text)
    return number is not None and number == number_in(other)


def plain_number(text: str) -> str:
    """Write a text that is one number without a fraction of zeros or an exponent; any other text stays as it is."""
    number = number_in(text)
    return text if number is None else format(number.normalize(), "f")


def number_text(value: int | float) -> str:
    """Write a number of a JSON file as text: a whole number without a fraction, so that 2.0 reads as 2 does."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
