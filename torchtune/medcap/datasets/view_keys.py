"""The keys of a configuration that say how images are looked at: ``dataset.view`` and ``view``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from medcap.configuration import Configuration, Rule
from medcap.data.images.view_keys import read_view
from medcap.errors import UserError
from medcap.instantiate import unknown_key


class ViewArguments(Configuration):
    """Describe the keys; :class:`ViewRule` checks them as it does those of a row."""

    frames: str | int | list[int] | None = Field(
        None, description="DICOM frames or slices of a volume: middle, all, a number from 0, a list, or '8 even'."
    )
    axis: str | None = Field(None, description="Slices of a volume: axial, coronal or sagittal.")
    window: int | list[Any] | None = Field(
        None, description="Centre and width, three of them for the three channels, or the number of a DICOM window."
    )
    fit: str | None = Field(
        None, description="How a picture fills the tower's square: crop, pad, pad_mean, squash; null as the tower does."
    )


@dataclass(frozen=True)
class ViewRule(Rule):
    """Make a key hold the keys of a view."""

    section: type[Configuration] = ViewArguments

    def checked(self, value: Any, path: str) -> dict[str, Any] | None:
        """Check the value of the key ``path``.

        Returns:
            The keys that are given; None for null.

        Raises:
            UserError: naming the key that is wrong.
        """
        if value is None:
            return None
        keys = self.section.model_fields
        if not isinstance(value, dict):
            raise UserError(f"{path} holds further keys ({', '.join(keys)}), not {value!r}")
        for name in value:
            if name not in keys:
                raise UserError(unknown_key(str(name), keys, f"{path}."))
        read_view(value, prefix=f"{path}.")
        return value
