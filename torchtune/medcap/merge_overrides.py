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
    base, others = copy.deepcopy(dict(values)), []
    for word in words:
        # torchtune removes no component; here one that is not named has a default.
        if not _remove_component(base, word) and not _set_in_list(base, word, others):
            _make_room(base, word)
            others.append(word)
    try:
        return _merge(base, others)
    except Exception as error:  # OmegaConf, YAML and torchtune raise whatever comes to hand
        culprit = next((word for end, word in enumerate(others, 1) if not _can_merge(base, others[:end])), "")
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


def _set_in_list(base: dict[str, Any], word: str, earlier: Sequence[str]) -> bool:
    """Apply an override such as ``dataset.sources.0.weight=0.7`` to a list of the file, which OmegaConf cannot merge.

    Returns:
        Whether it was one. A list that an earlier word gives is OmegaConf's work.
    """
    key, sign, text = word.partition("=")
    parts, node, depth = key.split("."), base, 0
    while depth < len(parts) - 2 and isinstance(node.get(parts[depth]), dict):
        node, depth = node[parts[depth]], depth + 1
    name, rest = ".".join(parts[: depth + 1]), parts[depth + 1 :]
    known = node.get(parts[depth])
    given_before = any(word.startswith(f"{name}=") for word in earlier)
    if not sign or not isinstance(known, list) or not rest or not rest[0].isdigit() or given_before:
        return False
    try:
        read: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={'null' if text == 'None' else text}"]))
        changed = OmegaConf.create(known)
        OmegaConf.update(changed, ".".join(rest), read["value"])
    except Exception as error:
        reason = f"{name} has {len(known)} entries" if int(rest[0]) >= len(known) else error
        raise UserError(f"the command line cannot be read at {word}: {reason}") from error
    node[parts[depth]] = OmegaConf.to_container(changed)
    return True


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
