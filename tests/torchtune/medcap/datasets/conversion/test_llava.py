import pytest

from medcap.datasets.conversion.example import SkipRecord
from medcap.datasets.conversion.llava import llava_example


def record(asked, **fields):
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": "b"}]
    return {"id": "c/a.png", "image": "a.png", "conversations": turns, **fields}


@pytest.mark.parametrize(
    ("asked", "last"), [("<image>\nWhat?", False), ("What?\n<image>", True), ("<image>", False), ("What?", False)]
)
def test_where_the_image_is(asked, last):
    example = llava_example(record(asked), "d")
    assert (example.images, example.folder, example.image_last) == (("a.png",), "d", last)


def test_the_image_may_be_named_by_another_field():
    assert llava_example(record("<image>"), "d", "id").images == ("c/a.png",)


def test_an_image_that_leads_out_of_its_folder_is_refused():
    with pytest.raises(SkipRecord, match="leads out"):
        llava_example(record("<image>", image="../a.png"), "d")
