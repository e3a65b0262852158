"""Write docs/keys.md, the reference of all keys, from the models that check them: ``python docs/make_keys.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from medcap.argument_types import limit_words
from medcap.checkpoints.keys import ModelConfiguration
from medcap.configuration import (
    Configuration,
    NamedSections,
    SectionList,
    allowed_values,
    rule_of,
    section_of,
    type_names,
)
from medcap.datasets.view_keys import ViewRule
from medcap.evaluation.generate_keys import GenerateConfiguration
from medcap.evaluation.judge_keys import JudgeConfiguration
from medcap.evaluation.tasks.registry import ALIASES, TASKS
from medcap.pipeline.keys import PipelineConfiguration
from medcap.sweep.keys import SweepConfiguration
from medcap.training.keys import DistributedConfiguration, TrainingConfiguration

FILE = Path(__file__).parent / "keys.md"
HEAD = """# Keys

Every key that a recipe takes, in a YAML file or as `key=value` on the command line. `python docs/make_keys.py` writes
this page from the models that check the keys; change a description there.

A *component* is a `_component_`, the dotted name of a function or class, and its arguments; `key=NAME` alone is a
component without arguments. Its own arguments are those of that function; the ones listed here have a limit of their
own. A path may begin with `~`. A number may be written as 2e-5.
"""
TASK_NAMES = ", ".join(f"`test_{name}`" for name in (*TASKS, *ALIASES))
# Heading, what is said of it, the model, and the model whose keys have a table of their own.
TABLES: list[tuple[str, str, type[Configuration], type[Configuration] | None]] = [
    ("The model", "All recipes take these.", ModelConfiguration, None),
    (
        "medcap/recipes/full_finetune_single_device",
        "And the keys of the model.",
        TrainingConfiguration,
        ModelConfiguration,
    ),
    (
        "medcap/recipes/full_finetune_distributed",
        "And the keys of full_finetune_single_device and of the model.",
        DistributedConfiguration,
        TrainingConfiguration,
    ),
    (
        "medcap/recipes/generate",
        f"And the keys of the model, and one for each task, true or false: {TASK_NAMES}.",
        GenerateConfiguration,
        ModelConfiguration,
    ),
    (
        "medcap/recipes/judge",
        "And the keys of the model, which only judge=self needs.",
        JudgeConfiguration,
        ModelConfiguration,
    ),
    ("medcap run", "The keys of a pipeline's own YAML file.", PipelineConfiguration, None),
    ("medcap sweep", "The keys of a sweep's own YAML file.", SweepConfiguration, None),
]


def reference() -> str:
    """Return the text of docs/keys.md."""
    parts = [HEAD]
    for heading, words, kind, described in TABLES:
        known = set() if described is None else {*described.model_fields} - {*kind.__annotations__}
        lines = [
            line for name in kind.model_fields if name not in known for line in _lines(name, kind.model_fields[name])
        ]
        table = ["| key | type | default | allowed | what it is |", "|---|---|---|---|---|", *lines]
        parts.append("\n".join([f"## {heading}", "", words, "", *table, ""]))
    return "\n".join(parts)


def _lines(key: str, field: FieldInfo, argument: bool = False) -> list[str]:
    section = section_of(field)
    if section is not None:
        return [line for name, inner in section.model_fields.items() for line in _lines(f"{key}.{name}", inner)]
    rule = rule_of(field)
    cells = (f"`{key}`", _type(field), _default(field, argument), _allowed(field), field.description or "")
    further = {} if rule is None or rule.arguments is None else rule.arguments.model_fields
    entries = next((part.section.model_fields for part in field.metadata if isinstance(part, SectionList)), {})
    viewed = next((part.section.model_fields for part in field.metadata if isinstance(part, ViewRule)), {})
    named = next((part.section.model_fields for part in field.metadata if isinstance(part, NamedSections)), {})
    return [
        f"| {' | '.join(cells)} |",
        *(line for name, inner in further.items() for line in _lines(f"{key}.{name}", inner, argument=True)),
        *(line for name, inner in entries.items() for line in _lines(f"{key}.0.{name}", inner)),
        *(line for name, inner in viewed.items() for line in _lines(f"{key}.{name}", inner)),
        *(line for name, inner in named.items() for line in _lines(f"{key}.NAME.{name}", inner)),
    ]


def _type(field: FieldInfo) -> str:
    names = ["component"] if rule_of(field) else type_names(field.annotation)
    null = ["null"] if type(None) in getattr(field.annotation, "__args__", ()) else []
    return " or ".join([*names, *null])


def _default(field: FieldInfo, argument: bool) -> str:
    rule = rule_of(field)
    if rule is not None and rule.default is not None and not rule.optional:
        return f"`{rule.default}`"
    if field.is_required():
        return "must be given"
    return "the component's" if argument and field.default is None else f"`{_yaml(field.default)}`"


def _allowed(field: FieldInfo) -> str:
    limits = {
        name: getattr(rule, name) for rule in field.metadata for name in ("ge", "gt", "le") if hasattr(rule, name)
    }
    return ", ".join(f"`{_yaml(value)}`" for value in allowed_values(field)) or limit_words(limits)


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
