"""That the benchmark of generation runs: it ends with an error where its sides do not say the same."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_all_sides_say_the_same(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import generation

    # Reading a gigabyte is for a figure, which is not wanted here.
    monkeypatch.setattr(generation, "READ_BYTES", 1 << 20)
    options = ["--preset", "tiny", "--device", "cpu", "--repeats", "1", "--new-tokens", "4", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["generation.py", *options])
    generation.main()
    report = json.loads((tmp_path / "generation_tiny.json").read_text())
    assert report["decoding"]["4"]["agreement"] == {"ours": 1.0, "transformers": 1.0}
    assert set(report["scoring"]["one question an image"]["agreement"].values()) == {1.0}
    assert (tmp_path / "generation_tiny.md").read_text().count("| ours |") == 4


@pytest.mark.parametrize("side", ["ours", "transformers"])
def test_one_side_is_measured_alone(tmp_path, monkeypatch, side):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import generation

    monkeypatch.setattr(generation, "READ_BYTES", 1 << 20)
    options = ["--preset", "tiny", "--device", "cpu", "--repeats", "1", "--new-tokens", "2", "--batch-sizes", "2"]
    monkeypatch.setattr("sys.argv", ["generation.py", *options, "--sides", side, "--out", str(tmp_path)])
    generation.main()
    report = json.loads((tmp_path / "generation_tiny.json").read_text())
    assert list(report["decoding"]["2"]["tokens_per_second"]) == [side]
    assert side in report["scoring"]["one question an image"]["questions_per_second"]
    assert report["bound"]["share"][side] > 0
