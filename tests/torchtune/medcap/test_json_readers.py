"""Whatever JSON file is damaged, nested too deeply, or holds a number that is too long: one line, and no traceback."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from medcap.checkpoints.llm_files import find_llm_files
from medcap.checkpoints.tensor_tree import load_tree
from medcap.data.storage.cache import load_entry
from medcap.datasets.leakage.image_sources import list_images
from medcap.datasets.phantoms.writing import check_disjoint
from medcap.datasets.published.reading import Strict, json_records
from medcap.errors import UserError
from medcap.evaluation.judges.inputs import read_judged
from medcap.evaluation.judges.outputs import metrics_before
from medcap.models.towers.tensor_files import read_json
from medcap.probe.examples import TableColumns, read_examples
from medcap.scoring.answers import read_answers, read_candidates
from medcap.sweep.objective import NoValueError, final_value

TEXTS = {
    "deep": '{"x": ' + "[" * 60_000 + "]" * 60_000 + "}",
    "long": '{"x": ' + "1" * 5001 + "}",
    "cut": '{"x": [1, ',
    "not UTF-8": b'{"x": "\xff"}',
}
OBJECTIVE = SimpleNamespace(task="vqa", metric="vqa.accuracy", take="last")
READERS = {
    "answers.jsonl": lambda path: read_answers(path),
    "judged.jsonl": lambda path: read_judged(path),
    "candidates.json": lambda path: read_candidates(path),
    "official.json": lambda path: list(json_records(path, Strict("Bench"))),
    "images.json": lambda path: list(list_images(path)),
    "labels.json": lambda path: read_examples(path, TableColumns("image", ["label"])),
    "vision.json": read_json,
    "state.json": lambda path: load_tree(path.parent, "state"),
    "phantom.json": lambda path: check_disjoint(path.parent, path.parent),
    "model.safetensors.index.json": lambda path: find_llm_files(path.parent),
    "vqa/metrics.json": lambda path: final_value(OBJECTIVE, path.parents[1]),
}


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(TEXTS[text] if isinstance(TEXTS[text], bytes) else TEXTS[text].encode())
    return path


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_not_json_is_named(tmp_path, name, text):
    with pytest.raises((UserError, NoValueError)) as caught:
        READERS[name](write(tmp_path, name, text))
    assert Path(name).name in str(caught.value) or str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", TEXTS)
def test_what_an_earlier_run_left_is_as_good_as_nothing(tmp_path, text):
    write(tmp_path, "verdicts_metrics.json", text)
    assert metrics_before(tmp_path) == {}
    write(tmp_path, "entry.json", text)
    assert load_entry(tmp_path) is None
