"""Tables of text for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def aligned(lines: Sequence[Sequence[str]], left: Collection[int] = (0,), indent: str = "") -> list[str]:
    """Align the columns of a table.

    Args:
        lines: cells of each line, as many in each.
        left: columns whose cells stand at the left; the others stand at the right.
        indent: before each line.

    Returns:
        The lines, without spaces at their ends.

    Example:
        >>> aligned([["", "n"], ["all", "12"]])
        ['      n', 'all  12']
    """
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        indent
        + "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
