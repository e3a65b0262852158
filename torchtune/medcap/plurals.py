"""Numbers of things in words."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number and its noun, which has no plural for one.

    Args:
        number: how many.
        noun: for one.
        plural: for any other number; None for the noun and an s.

    Example:
        >>> counted(1, "row"), counted(2000, "row"), counted(0, "reply", "replies")
        ('1 row', '2,000 rows', '0 replies')
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def none_of(number: int, noun: str, plural: str | None = None) -> str:
    """Return the subject of a sentence that says what none of some things is.

    Args:
        number: how many there are.
        noun: for one.
        plural: for any other number; None for the noun and an s.

    Example:
        >>> none_of(1, "row"), none_of(2000, "row")
        ('not one row', 'none of the 2,000 rows')
    """
    return f"not one {noun}" if number < 2 else f"none of the {counted(number, noun, plural)}"
