import json

import numpy as np
import pytest
from PIL import Image

from medcap.errors import UserError
from medcap.instruct.clean import CleaningChoices, clean, text
from medcap.instruct.clean_report import write_page
from medcap.instruct.cleaning import CANNOT_SEE, PREFIX
from medcap.instruct.leaks import HeldOutSets


def picture(path, seed):
    path.parent.mkdir(exist_ok=True)
    values = np.random.default_rng(seed).uniform(0, 255, (9, 9)).astype(np.uint8)
    Image.fromarray(values).resize((96, 96), Image.Resampling.BICUBIC).save(path)


def row(id, *turns, image="a.png", **fields):
    sides = ("human", "gpt")
    conversations = [{"from": sides[number % 2], "value": value} for number, value in enumerate(turns)]
    return {"id": id, "image": image, **fields, "conversations": conversations}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "data" / "rows.jsonl"
    path.parent.mkdir()

    def write(*rows):
        path.write_text("".join(json.dumps(each) + "\n" if isinstance(each, dict) else each for each in rows))
        return path

    return write


def cleaned(source, **choices):
    out = source.parent.parent / "out"
    done = clean(source, out, CleaningChoices(**choices))
    return done, [json.loads(line) for line in (out / "conversations.jsonl").read_text().splitlines()]


def test_the_image_moves_to_the_first_question_that_is_left_on_its_side(source):
    sorry = "I'm sorry, I cannot see the image."
    first = row("1", "<image>\nWhat?", sorry, "Where?", "Based on the caption, left.", domain={"mri": True})
    last = row("2", "What?\n<image>", sorry, "Is it large?", "Yes, it is.")
    stays = row("3", "①①①", "A normal chest film.")
    done, rows = cleaned(source(first, last, stays))
    assert [each["conversations"] for each in rows] == [
        [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": "Left."}],
        [{"from": "human", "value": "Is it large?\n<image>"}, {"from": "gpt", "value": "Yes, it is."}],
        [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A normal chest film."}],
    ]
    assert rows[0]["domain"] == {"mri": True}
    assert done.by_rule == {CANNOT_SEE: 2, PREFIX: 1}
    removed = [json.loads(line) for line in (source().parent.parent / "out" / "removed.jsonl").read_text().splitlines()]
    assert removed[1] == {
        "id": "1",
        "rule": PREFIX,
        "question": "Where?",
        "before": "Based on the caption, left.",
        "after": "Left.",
    }


def test_replies_of_generators_are_read_and_what_cannot_be_used_is_counted(source):
    good = "User: What?\nAssistant: A cyst.\nUser: And?"
    done, rows = cleaned(
        source(
            {"pair_id": "P1", "result": good, "domain": {"mri": True}},
            {"pair_id": "P2", "result": "User: Which?\nAssistant: A nodule."},
            {"id": "P3", "reply": "User: Which?\nAssistant: A nodule."},
            {"id": "P4", "result": "No."},
            {"id": "P5"},
            '{"id": "P6", \n',
            row("P7", "What?", "A", image=["a.png", "b.png"]),
            row("P8", "What?"),
            row("P9", "What?", "I cannot see the image."),
        )
    )
    assert [(each["id"], each["image"], each.get("domain")) for each in rows] == [
        ("P1", "P1.jpg", {"mri": True}),
        ("P2", "P2.jpg", None),
    ]
    assert done.malformed == 1
    assert dict(done.read.skipped) == {
        "the row is a reply: clean conversations.jsonl, which lies beside it": 1,
        "the reply has no turns of User and Assistant": 1,
        "there is no 'conversations'": 1,
        "not valid JSON": 1,
        "a row with several images is not cleaned": 1,
        "'conversations' must be pairs of a question and an answer": 1,
    }
    assert "  1 row removed: no pair is left" in text(done).splitlines()


def test_near_duplicates_and_images_of_test_sets_are_left_out(source, tmp_path):
    for number in range(4):
        picture(tmp_path / "data" / f"{number}.png", number)
    picture(tmp_path / "test" / "t.png", 2)
    words = "The left lung has a round nodule with a smooth outline near the hilum"
    rows = [
        row(str(number), "<image>\nWhat?", answer, image=f"{number}.png")
        for number, answer in enumerate((words, f"{words}.", "An MRI of the knee.", "A CT of the liver."))
    ]
    rows.append(row("4", "<image>\nWhat?", "A slide with glands.", image="gone.png"))
    done, left = cleaned(source(*rows), held_out=HeldOutSets([tmp_path / "test"], processes=1))
    assert [each["id"] for each in left] == ["0", "3", "4"]
    assert done.leaks.by_image == {"2.png": f"same file as {tmp_path}/test/t.png of {tmp_path}/test"}
    assert done.leaks.test_images == {str(tmp_path / "test"): 1}
    assert len(done.notices) == 1 and done.notices[0].startswith("1 image cannot be read and was not compared")
    assert "1 row removed: nearly the same as a row before" in text(done)
    done, left = cleaned(source(*rows), similarity=0)
    assert len(left) == 5
    assert done.notices == ["no test set was named by --test, so images of tests were not looked for"]


def test_the_page_shows_rules_changes_and_conversations(source, tmp_path):
    picture(tmp_path / "data" / "a.png", 0)
    choices = CleaningChoices()
    done = clean(source(row("r<1>", "<image>\nWhat?", "Based on the caption, a cyst.")), tmp_path / "out", choices)
    page = write_page(done, choices, tmp_path / "out").read_text()
    assert "Rule: words before a statement" in page
    assert "Based on the caption, a cyst." in page
    assert "<dd>A cyst.</dd>" in page
    assert "r&lt;1&gt;" in page
    assert page.count("data:image/jpeg") == 1


@pytest.mark.parametrize(
    ("rows", "choices", "message"),
    [
        ((), {"similarity": 0.3}, "--similarity 0.3 must be 0.5 to 1, or 0 for none"),
        ((row("1", "What?", "I cannot see the image."),), {}, "not one row is left: 1: the answer does not"),
        ((), {}, "is empty"),
    ],
)
def test_nothing_that_could_be_left_is_one_line(source, rows, choices, message):
    with pytest.raises(UserError, match=message):
        cleaned(source(*rows), **choices)


def test_a_test_set_that_cannot_be_compared_is_one_line(source, tmp_path):
    picture(tmp_path / "test" / "t.png", 0)
    path = source(row("1", "Q?", "A."))
    with pytest.raises(UserError, match=r"not one image can be read, so nothing can be compared with --test"):
        cleaned(path, held_out=HeldOutSets([tmp_path / "test"]))
    # A test set that is not there is told before an image of the rows is looked for.
    with pytest.raises(UserError, match=r"--test .*gone does not exist"):
        cleaned(path, held_out=HeldOutSets([tmp_path / "gone"]))
    picture(tmp_path / "data" / "a.png", 1)
    with pytest.raises(UserError, match="gone does not exist: give a data file or a folder of images"):
        cleaned(path, held_out=HeldOutSets([tmp_path / "gone"], processes=1))
