"""That the benchmark of generation runs: it ends with an error where its sides do not say the same."""

import json
from pathlib import Path

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
