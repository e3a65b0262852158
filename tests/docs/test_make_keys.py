"""The committed reference of keys is the one that the models give."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_keys", ROOT / "docs/make_keys.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_reference_is_up_to_date(script):
    committed = (ROOT / "docs/keys.md").read_text(encoding="utf-8")
    assert committed == script.reference(), "run python docs/make_keys.py"


def test_rows_say_type_default_and_limits(script):
    rows = script.reference().splitlines()
    beginnings = (
        "| `llm` | component | must be given |  | Builder of",
        "| `checkpointer.checkpoint_dir` | str | must be given |  | Folder of",
        "| `dtype` | str | `auto` | `auto`, `fp32`, `bf16` | ",
        "| `projector` | component | `medcap.models.mlp` |  | ",
        "| `vision` | str or dict or null | `null` |  | ",
        "| `trainable` | list or dict | `[vision, projector]` |  | ",
        "| `optimizer.lr` | float or null | the component's | at least 0 | ",
        "| `clip_grad_norm` | float or null | `null` | above 0 | ",
        "| `activation_memory_budget` | float | `1.0` | at least 0 and at most 1 | ",
        "| `save_meta_model` | bool or str | `false` | `true`, `false`, `auto` | ",
        "| `vqa_type` | str | `direct` | `direct`, ",
        "| `objective.direction` | str | must be given | `minimize`, `maximize` | ",
    )
    for beginning in beginnings:
        assert sum(row.startswith(beginning) for row in rows) == 1, beginning


def test_every_key_is_described_in_a_sentence(script):
    rows = [row for row in script.reference().splitlines() if row.startswith("| `")]
    assert len(rows) > 100
    for row in rows:
        description = row.removesuffix(" |").rpartition("| ")[2]
        assert description[0].isupper() and description.endswith("."), row
