import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from helpers.damaged_rows import MAX_PIXELS, MAX_SEQ_LEN, NUM_IMAGE_TOKENS, damages, good_row, write_images
from helpers.tokenizers import tiny_tokenizer_file
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.datasets.chat import chat_dataset
from medcap.datasets.inspection.rows import Problem, RowChecker
from medcap.datasets.inspection.survey import survey
from medcap.datasets.inspection.validation import validate, write_good_rows
from medcap.datasets.rows.source import open_source
from medcap.errors import UserError
from medcap.models.tokenizers import llama3_tokenizer

pytestmark = pytest.mark.processes

DAMAGES = damages()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validation")
    write_images(folder)
    return folder / "data"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = tiny_tokenizer_file(tmp_path_factory.mktemp("tokenizer"))
    return ChatTokenizer(llama3_tokenizer(str(file)), NUM_IMAGE_TOKENS)


def check(path, tokenizer=None, processes=1, roots=None):
    rows, reader = open_source(str(path), roots or [path.parent], MAX_PIXELS)
    return survey(RowChecker(rows, reader, tokenizer=tokenizer, max_seq_len=MAX_SEQ_LEN), processes)


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def good(number=0):
    return json.dumps(good_row(f"images/{number}.png", f"Normal {number}"))


def test_there_are_at_least_25_kinds_of_damage():
    assert len(DAMAGES) >= 25


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_alone_is_found_and_nothing_else(folder, tokenizer, tmp_path, name):
    path = write(tmp_path / "rows.jsonl", [good(0), DAMAGES[name].text, good(1)])
    problems = check(path, tokenizer, roots=[folder]).problems
    assert list(problems) == [1]
    assert [problem.rule for problem in problems[1]] == [DAMAGES[name].rule]
    assert DAMAGES[name].reason in problems[1][0].reason


@pytest.mark.parametrize("processes", [1, 3])
def test_all_damages_together_are_found_and_nothing_else(folder, tokenizer, tmp_path, processes):
    lines = [line for damage in DAMAGES.values() for line in (good(len(damage.text) % 4), damage.text)] * 2
    found = check(write(tmp_path / "rows.jsonl", lines), tokenizer, processes, [folder])
    assert list(found.problems) == list(range(1, len(lines), 2))
    rules = [damage.rule for damage in DAMAGES.values()] * 2
    assert [problem.rule for problems in found.problems.values() for problem in problems] == rules
    assert found.good_rows().tolist() == list(range(0, len(lines), 2))


def test_training_refuses_the_same_rows(folder, tokenizer, tmp_path):
    lines = [good(0), *(damage.text for damage in DAMAGES.values()), good(1)]
    path = write(tmp_path / "rows.jsonl", lines)
    dataset = chat_dataset(
        tokenizer, source=str(path), max_seq_len=MAX_SEQ_LEN, image_roots=[str(folder)], max_image_pixels=MAX_PIXELS
    )
    refused = {bad.name: bad.reason for bad in [*dataset.bad, *dataset.check_images(len(lines))]}
    found = validate(check(path, tokenizer, roots=[folder]))
    reasons = {row["name"]: row["reason"] for row in found.bad_rows()}
    assert reasons.keys() == refused.keys()
    # Of an assistant who says nothing, training cannot tell whether a longer sample would hold words.
    assert all(refused[name].removeprefix(f"{name}: ").startswith(reason) for name, reason in reasons.items())


def test_without_a_tokenizer_all_but_the_cuts_are_found(folder, tmp_path):
    path = write(tmp_path / "rows.jsonl", [damage.text for damage in DAMAGES.values()])
    found = check(path, roots=[folder])
    missed = [name for position, name in enumerate(DAMAGES) if position not in found.problems]
    assert missed == ["answer behind the end", "image cut"]
    assert found.lengths == {}


def test_every_problem_of_a_row_is_reported(folder, tokenizer, tmp_path):
    row = good_row("images/cut.png", " ")
    found = validate(check(write(tmp_path / "rows.jsonl", [json.dumps(row)]), tokenizer, roots=[folder]))
    (bad,) = found.bad_rows()
    assert (bad["row"], bad["rules"]) == (0, ["tokens", "image"])
    assert "says nothing" in bad["reason"] and "cut.png is damaged" in bad["reason"]


def test_all_rows_that_name_a_damaged_image_are_bad(folder, tmp_path):
    rows = [good_row("images/cut.png"), good_row(), good_row("images/../images/cut.png")]
    found = check(write(tmp_path / "rows.jsonl", map(json.dumps, rows)), roots=[folder])
    assert list(found.problems) == [0, 2]
    assert len(found.first_rows) == 2


@pytest.mark.slow
def test_a_row_that_kills_its_process_fails_alone(folder, tmp_path):
    path = write(tmp_path / "rows.jsonl", [good(number % 4) for number in range(150)])
    rows, reader = open_source(str(path), [folder])

    class Killed(RowChecker):
        def __call__(self, index):
            if index in (70, 149):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(index)

    found = survey(Killed(rows, reader), 2)
    assert list(found.problems) == [70, 149]
    assert found.problems[70] == [Problem("crash", "reading it ends the process (memory ran out?)")]
    assert found.num_rows == 150


def test_rows_are_the_same_if_they_say_and_show_the_same(folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("0.png", "1.png", "2.png"):
        (images / name).write_bytes((folder / "images" / name).read_bytes())
    Image.open(images / "1.png").save(images / "copy.bmp")
    rows = [
        good_row("images/1.png"),
        good_row("images/0.png"),
        good_row("images/copy.bmp"),
        {**good_row("images/1.png"), "id": "other"},
        good_row("images/1.png", "Other"),
        good_row("images/2.png"),
    ]
    found = validate(check(write(tmp_path / "rows.jsonl", map(json.dumps, rows))))
    assert (found.same_rows, found.num_repeated_rows) == ([[0, 2, 3]], 2)
    assert (found.same_images, found.num_repeated_images) == ([[0, 2]], 1)


def test_the_order_of_images_matters(folder, tmp_path):
    turns = [{"from": "human", "value": "①①x①"}, {"from": "gpt", "value": "Yes"}]
    pairs = [["images/0.png", "images/1.png"], ["images/1.png", "images/0.png"], ["images/0.png", "images/1.png"]]
    rows = [{"image": pair, "conversations": turns} for pair in pairs]
    found = validate(check(write(tmp_path / "rows.jsonl", map(json.dumps, rows)), roots=[folder]))
    assert found.same_rows == [[0, 2]]


def test_another_file_is_compared_by_content(folder, tmp_path):
    Image.open(folder / "images" / "2.png").save(tmp_path / "renamed.png", compress_level=0)
    train = check(write(tmp_path / "train.jsonl", [good(0), good(2), good(3)]), roots=[folder])
    test = [good_row("renamed.png", "Normal 2"), {"image": "images/3.png", "question": "?"}, {"text": "no image"}]
    rows, reader = open_source(str(write(tmp_path / "test.jsonl", map(json.dumps, test))), [tmp_path, folder])
    other = survey(RowChecker(rows, reader, any_layout=True), 1)
    overlap = validate(train, other).overlap
    assert (overlap.num_rows, overlap.rows) == (1, [(1, 0)])
    assert (overlap.num_images, overlap.images) == (2, [(1, 0), (2, 1)])
    assert overlap.unusable == 2


def test_lengths_are_those_before_the_cut(folder, tokenizer, tmp_path):
    long = {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "lung " * 200}]}
    found = validate(check(write(tmp_path / "rows.jsonl", [good(0), json.dumps(long)]), tokenizer, roots=[folder]))
    lengths = found.lengths()
    assert lengths["rows_cut"] == 1
    assert lengths["min"] < MAX_SEQ_LEN < 200 < lengths["max"]
    assert sum(entry["rows"] for entry in lengths["histogram"]) == 2


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_good_rows_are_written_as_they_stand(folder, tmp_path, suffix, indent):
    rows = [good_row(), {"conversations": []}, good_row("images/1.png", "é\u2028"), good_row("images/none.png")]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    assert write_good_rows(check(path, roots=[folder]), tmp_path / f"good{suffix}") == 2
    written = (tmp_path / f"good{suffix}").read_text(encoding="utf-8")
    text = json.dumps(rows[0], indent=indent)
    assert (text.replace("\n", "\n ") in written) == (indent is None or suffix == ".json")
    read = json.loads(written) if suffix == ".json" else list(map(json.loads, written.split("\n")[:-1]))
    assert read == [rows[0], rows[2]]
    assert not check(tmp_path / f"good{suffix}", roots=[folder]).problems


def test_nothing_good_writes_nothing(folder, tmp_path):
    found = check(write(tmp_path / "rows.jsonl", ["{}"]), roots=[folder])
    with pytest.raises(UserError, match="not one row can be used"):
        write_good_rows(found, tmp_path / "good.json")
    assert not (tmp_path / "good.json").exists()


def test_columns_hold_numbers_alone(folder, tmp_path):
    found = check(write(tmp_path / "rows.jsonl", [good(number % 4) for number in range(300)]), roots=[folder])
    columns = [found.words, found.starts, found.files, found.first_rows, *found.images.values()]
    assert all(isinstance(column, np.ndarray) and column.dtype != object for column in columns)
    assert sum(column.nbytes for column in columns) < 60 * 300
