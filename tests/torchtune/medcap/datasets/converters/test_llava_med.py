import pytest

from helpers.downloads import Downloads, left_out, rows_of, said, write_llava_med
from medcap.datasets.converters.llava_med import LlavaMed
from medcap.errors import UserError


@pytest.fixture
def downloads(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_llava_med(downloads)
    return downloads


def test_turns_stay_and_the_image_stays_after_the_question(downloads):
    (written,) = downloads.convert(LlavaMed())
    assert written.path.name == "llava-med_instruct-60k-im.jsonl"
    (row,) = rows_of(written)
    asked = "Can you briefly describe the image?\n<image>"
    assert said(row) == [asked, "A chest X-ray.", "How many ribs?", "24"]
    assert row["image"] == "24_F1.jpg"


def test_the_misspelt_key_of_the_alignment_file_is_read(downloads):
    (written,) = downloads.convert(LlavaMed("alignment"))
    assert written.path.name == "llava-med_alignment.jsonl"
    assert [said(row)[1] for row in rows_of(written)] == ["A chest X-ray."]


def test_what_cannot_be_learnt_is_left_out(downloads):
    def record(*values, **fields):
        roles = ("human", "gpt") * 2
        turns = [{"from": role, "value": value} for role, value in zip(roles, values, strict=False)]
        return {"image": "24_F1.jpg", "conversations": turns, **fields}

    downloads.array(
        "llava_med/instruct/llava_med_instruct_10k.json",
        [
            record("<image>\nWhat ① is it?", "b"),
            record("No tag", "b"),
            record("Only words", "b", image=None),
            record("a <image>", "b", image=None),
            record("<image>", "a", "<image> b", "c"),
            record("<image>\n<image>", "b"),
            record("a"),
            record("a", "b", conversations="text"),
            {"image": "24_F1.jpg"},
            record("<image>", ""),
        ],
    )
    (written,) = downloads.convert(LlavaMed("instruct-10k"))
    rows = rows_of(written)
    assert [said(row)[0] for row in rows] == ["<image>\n\nWhat (1) is it?", "<image>\n\nNo tag", "Only words"]
    assert "image" not in rows[2]
    assert left_out(written) == {
        "there is an <image> but no 'image'": 1,
        "<image> stands elsewhere than once in the first question": 2,
        "'conversations' must be pairs of a question and an answer": 1,
        "'conversations' must be a list of turns with 'from' and 'value'": 1,
        "there is no 'conversations'": 1,
        "a turn without words": 1,
    }


def test_the_missing_file_is_named_with_its_script(downloads):
    with pytest.raises(UserError, match=r"instruct/llava_med_instruct_60k.json .*does not exist: .*download_data.sh"):
        downloads.convert(LlavaMed("instruct-60k"))
