"""Write values as ``key=value`` words for the command line of a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from medcap.errors import UserError


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested keys as dotted ones: ``{optimizer: {lr: 1}}`` -> ``{optimizer.lr: 1}``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def override_text(value: Any, path: str) -> str:
    """Return the text after ``=`` from which the recipe reads this value.

    Args:
        value: text, number, True, False, None, or a list or dictionary of these.
        path: the key, for messages.

    Returns:
        The value in YAML's one-line notation.

    Raises:
        UserError: if torchtune's command line cannot carry it.
    """
    text = value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, str) and _read(text) != value:
        text = json.dumps(value)
    # torchtune 0.6.1 splits at every "=" and reads the word None as null (config/_utils.py).
    if "=" in text or text == "None" or _read(text) != value:
        raise UserError(f"{path}={value!r} cannot be given on a command line: put it into the config file")
    return text


def _read(text: str) -> Any:
    try:
        read: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
        return read["value"]
    except (OmegaConfBaseException, YAMLError, ValueError):
        return ...
