"""``key=value`` of a command line over the values of a YAML file; ``configuration.py`` checks the keys."""

from __future__ import annotations

import copy
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medcap.errors import UserError

_COMPONENT = "_component_"


def override(values: Mapping[str, Any], words: Sequence[str]) -> DictConfig:
    """Apply overrides as torchtune does; one of another kind (a list where a mapping was) replaces what was there.

    Args:
        values: values of the YAML file, interpolations not resolved.
        words: ``key=value`` and ``~key``.

    Returns:
        The configuration, not resolved.

    Raises:
        UserError: naming the word that cannot be applied.
    """
    base = copy.deepcopy(dict(values))
    # torchtune removes no component; here one that is not named has a default.
    words = [word for word in words if not _remove_component(base, word)]
    for word in words:
        _make_room(base, word)
    try:
        return _merge(base, words)
    except Exception as error:  # OmegaConf, YAML and torchtune raise whatever comes to hand
        culprit = next((word for end, word in enumerate(words, 1) if not _can_merge(base, words[:end])), "")
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the command line cannot be read{' at ' * bool(culprit)}{culprit}: {reason}") from error


def _merge(base: Mapping[str, Any], words: Sequence[str]) -> DictConfig:
    # torchtune's own, so that an override means the same with every recipe that tune starts.
    from torchtune.config._utils import _merge_yaml_and_cli_args

    return _merge_yaml_and_cli_args(Namespace(**copy.deepcopy(dict(base))), list(words))


def _can_merge(base: Mapping[str, Any], words: Sequence[str]) -> bool:
    try:
        _merge(base, words)
    except Exception:
        return False
    return True


def _remove_component(base: dict[str, Any], word: str) -> bool:
    """Remove the section that a word such as ``~projector`` names, if it is a component's; whether it is."""
    known = base.get(word.removeprefix("~")) if word.startswith("~") else None
    if isinstance(known, dict) and _COMPONENT in known:
        del base[word.removeprefix("~")]
        return True
    return False


def _make_room(base: dict[str, Any], word: str) -> None:
    """Remove what an override cannot be merged with, because it is of another kind."""
    key, sign, text = word.partition("=")
    if not sign or word.startswith("~"):
        return
    try:
        read: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
        value = read["value"]
    except Exception:  # told when it is merged
        return
    *parents, last = key.split(".")
    node = base
    for parent in parents:
        if not isinstance(node.get(parent), dict):
            node.pop(parent, None)
            return
        node = node[parent]
    known = node.get(last)
    other_kind = isinstance(known, list | dict) and isinstance(value, list | dict) and type(known) is not type(value)
    if other_kind or (isinstance(known, dict) and isinstance(value, dict) and _COMPONENT in value):
        del node[last]
