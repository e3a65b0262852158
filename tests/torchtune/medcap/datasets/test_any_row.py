"""Any JSON value in any place of a row: it is read, or refused with file and number."""

import copy
import json
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.tokenizers import tiny_tokenizer_file
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.images.reader import ImageReader
from medcap.data.labels_and_image_tokens import LabelRules
from medcap.data.row_layouts import read_record
from medcap.data.samples import tokenize_record
from medcap.datasets.image_names import rename_images
from medcap.datasets.inspection.rows import RowChecker
from medcap.datasets.rows.json_file import open_rows
from medcap.errors import UserError
from medcap.evaluation.tasks.registry import TASKS
from medcap.models.tokenizers import llama3_tokenizer
from medcap.scoring.answers import read_answers

MANY = settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TEXTS = st.one_of(
    st.sampled_from(
        ["", " ", "a.jpg", "<image>", "<image>\nWhat?", "①①", "nan", "human", "gpt", "user", "\ud83d", "\0"]
    ),
    st.text(max_size=5),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.just(10**4000), st.floats(), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["type", "text", "image", "content", "from", "value", "role"]), inner, max_size=3
        ),
    ),
    max_leaves=6,
)
ROWS = (
    {
        "id": "a",
        "image": "a.jpg",
        "system": "Be brief.",
        "meta": "dir=.",
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A lung."}],
    },
    {
        "images": ["a.jpg"],
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": None}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "A lung."},
        ],
    },
    {"question_id": 3, "image": "a.jpg", "question": "What?", "answer": ["a", "b"], "options": ["a", "b", ""]},
    {"question_id": "x", "question": "What?", "reference": "a", "prediction": "b", "options": ["a"], "modality": "CT"},
)


def positions(value, path=()):
    """Every place in a value, by its keys."""
    yield path
    if isinstance(value, dict | list):
        for key, held in value.items() if isinstance(value, dict) else enumerate(value):
            yield from positions(held, (*path, key))


def put(row, path, value):
    if not path:
        return value
    changed = copy.deepcopy(row)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return changed


@st.composite
def damaged_rows(draw):
    row = draw(st.sampled_from(ROWS))
    for _ in range(draw(st.integers(1, 2))):
        row = put(row, draw(st.sampled_from(sorted(positions(row), key=repr))), draw(VALUES))
    if isinstance(row, dict) and draw(st.booleans()):
        keys = ["images", "img", "system", "videos", "image_path", "messages", "conversatons", "tools", "options"]
        row = {**row, draw(st.sampled_from(keys)): draw(VALUES)}
    return row


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    Image.new("L", (4, 4)).save(folder / "a.jpg")
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return ChatTokenizer(llama3_tokenizer(str(tiny_tokenizer_file(folder / "tokenizer"))), 4)


def refused(error, *names):
    """One line that can be written anywhere, and names the place."""
    assert "\n" not in str(error)
    assert all(name in str(error) for name in names), str(error)


@MANY
@given(row=damaged_rows())
def test_a_row_is_learnt_or_refused(row, folder, tokenizer):
    reader = ImageReader([folder])
    source = folder / "rows.json"
    try:
        record = read_record(row, source, 7, reader.resolve)
    except UserError as error:
        refused(error, f"{source}, row 7: ")
        return
    try:
        sample = tokenize_record(record, record.name, tokenizer, 200, LabelRules())
    except UserError as error:
        refused(error)
        return
    assert sample.targets[-1] in tokenizer.stop_tokens
    said = [message for message in record.messages if message.role == "assistant"]
    assert all(part["type"] == "text" and part["content"] != "nan" for message in said for part in message.content) or (
        "nan" in json.dumps(row)
    )


@MANY
@given(row=damaged_rows())
def test_a_row_of_a_file_is_checked_without_a_crash(row, folder, tokenizer):
    source = folder / "checked.json"
    source.write_text(json.dumps([row]), encoding="utf-8")
    facts = RowChecker(open_rows(source), ImageReader([folder]), tokenizer=tokenizer)(0)
    assert facts.problem is None or facts.problem.rule != "crash", facts.problem
    try:
        rename_images(row, lambda name, folder, keys: f"new/{name}")
    except UserError as error:
        refused(error)


@MANY
@given(row=damaged_rows())
@pytest.mark.parametrize("name", ["vqa", "caption"])
def test_a_task_reads_a_row_or_names_it(row, name, folder):
    source = folder / f"{name}.json"
    source.write_text(json.dumps([row]), encoding="utf-8")
    try:
        with warnings.catch_warnings(action="ignore"):
            benchmark = TASKS[name]().load(source)
    except UserError as error:
        refused(error, str(source))
        return
    for loaded in benchmark.rows:
        assert not {"nan", "inf", "-inf", "True", "False"}.intersection(loaded.references) or any(
            word in json.dumps(row) for word in ('"nan"', '"inf"', '"True"', '"False"')
        )


@MANY
@given(row=damaged_rows())
def test_answers_are_read_or_the_row_is_named(row, folder):
    source = folder / "answers.json"
    source.write_text(json.dumps([row]), encoding="utf-8")
    try:
        read_answers(source)
    except UserError as error:
        refused(error, str(source))
