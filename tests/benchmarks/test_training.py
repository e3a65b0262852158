"""That the benchmarks of a training step run: they end with an error where their sides compute another gradient."""

import json
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OPTIONS = ["--preset", "tiny", "--device", "cpu", "--repeats", "1", "--out"]


def one_byte(*args, **kwargs):
    """Stand for the peak memory, which a process of its own measures."""
    return 1


def test_all_sides_of_a_step_agree(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import training_step

    monkeypatch.setattr(training_step, "_memory", one_byte)
    monkeypatch.setattr("sys.argv", ["training_step.py", *OPTIONS, str(tmp_path), "--workloads", "questions"])
    training_step.main()
    report = json.loads((tmp_path / "training_step_tiny.json").read_text())
    ratios = report["workloads"]["questions"]["ratios"]
    assert list(ratios) == ["plain", "transformers", "transformers, checkpointing"]
    assert (tmp_path / "training_step_tiny.md").read_text().count("| transformers |") == 2


def test_what_adapters_add_is_their_own_products_and_the_prompt_prefix(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import training_adapters

    monkeypatch.setattr(training_adapters, "_memory", one_byte)
    monkeypatch.setattr("sys.argv", ["training_adapters.py", *OPTIONS, str(tmp_path)])
    training_adapters.main()
    report = json.loads((tmp_path / "training_adapters_tiny.json").read_text())
    assert list(report["cases"]) == ["tower, projector", "projector"]
    for found in report["cases"].values():
        assert found["operations"] == {
            "difference": 256_689_152,
            "adapters_by_formula": 242_491_392,
            "adapters": 242_491_392,
            "prompt_prefix": 14_197_760,
        }
    assert (tmp_path / "training_adapters_tiny.md").read_text().count("| PEFT |") == 4
