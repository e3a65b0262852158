"""Which frames of a file or slices of a volume a user means."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medcap.errors import ViewError

ALL, MIDDLE = "all", "middle"
EVEN = re.compile(r"([1-9]\d{0,5})\s*even")  # "8 even"


def is_even(frames: object) -> bool:
    """Return whether frames are ``N even``."""
    return isinstance(frames, str) and EVEN.fullmatch(frames) is not None


def choose_frames(frames: str | int | Sequence[int], count: int) -> Sequence[int]:
    """Return the frames that a user means.

    ``N even`` cuts the frames into N parts of equal length and takes the one in the middle of each: the i-th, from 0,
    is ``floor((i + 1/2) * count / N)``. The outermost slices of a volume, which often show nothing, are left out.
    Where there are fewer than N frames, all are taken, each once.

    Args:
        frames: frames, in the form of ``View.frames``.
        count: how many there are.

    Returns:
        Numbers from 0.

    Raises:
        UserError: if there is no such frame.
    """
    if isinstance(frames, str) and (even := EVEN.fullmatch(frames)):
        number = min(int(even[1]), count)
        return [(2 * part + 1) * count // (2 * number) for part in range(number)]
    if frames == ALL:
        return range(count)
    wanted = [count // 2] if frames == MIDDLE else [frames] if isinstance(frames, str | int) else frames
    for number in map(int, wanted):
        if not 0 <= number < count:
            raise ViewError(f"has no frame {number}: it has {count}, numbered from 0")
    return list(map(int, wanted))
