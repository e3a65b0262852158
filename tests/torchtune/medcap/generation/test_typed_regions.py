import pytest

from medcap.data.regions.region import BoxShape, Region
from medcap.errors import UserError
from medcap.generation.typed_regions import place_regions

A, B = Region(BoxShape((0, 0, 1, 1))), Region(BoxShape((1, 1, 2, 2)))
TAG = "<region></region>"


@pytest.mark.parametrize(
    ("text", "words", "regions"),
    [
        ("What is {region}?", f"What is {TAG}? {TAG}", (A, B)),
        ("Is {region 2} like {region}?", f"Is {TAG} like {TAG}? {TAG}", None),
        ("Is {region 2} in {region 1}, or {region 2}?", f"Is {TAG} in {TAG}, or {TAG}?", (B, A, B)),
        ("Is <region></region> like <region> </region>?", f"Is {TAG} like {TAG}?", (A, B)),
        ("", f"{TAG} {TAG}", (A, B)),
        ("Which is larger?", f"Which is larger? {TAG} {TAG}", (A, B)),
    ],
)
def test_words_name_regions_in_any_order_and_the_others_follow(text, words, regions):
    if regions is None:  # the next after the second is a third
        with pytest.raises(UserError, match=r"\{region\} names a region that does not exist: 2 were given"):
            place_regions(text, [A, B])
    else:
        assert place_regions(text, [A, B]) == (words, regions)


def test_a_run_that_reads_no_regions_leaves_the_words_alone():
    assert place_regions(f"What is {TAG}?", [], reads=False) == (f"What is {TAG}?", ())
    with pytest.raises(UserError, match=r"\{region 1\} names a region that does not exist: 0 were given"):
        place_regions("What is {region 1}?", [], reads=False)


def test_words_cannot_name_the_file_of_a_region():
    with pytest.raises(UserError, match="words cannot name the file of a region: give it as a mask"):
        place_regions("What is <region>masks/a.png</region>?", [A])
