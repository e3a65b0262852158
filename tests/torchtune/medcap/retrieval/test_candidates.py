import json

import pytest
from PIL import Image

from medcap.data.images.reader import ImageReader
from medcap.errors import UserError
from medcap.retrieval.candidates import read_candidates


@pytest.fixture
def read(tmp_path):
    for name in "abcd":
        Image.new("L", (2, 2)).save(tmp_path / f"{name}.png")
        Image.new("L", (2, 2)).save(tmp_path / f"{name}_mask.png")

    def read_rows(rows, **options):
        path = tmp_path / "rows.json"
        path.write_text(json.dumps(rows))
        return read_candidates(path, ImageReader([tmp_path]), "patient", **options)

    return read_rows


def names(candidates):
    return [
        (it.image.stem, it.mask.rsplit("/", 1)[-1].removesuffix("_mask.png") if isinstance(it.mask, str) else it.mask)
        for it in candidates
    ]


def test_every_layout_gives_its_pairs_once(read):
    spoken = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "<SEG><mask>d_mask.png</mask>"}]
    found, failures = read(
        [
            {"image": "a.png", "mask": "a_mask.png"},
            {"image": "a.png", "target_mask": "a_mask.png", "icl_examples": [{"image": "b.png", "mask": "b_mask.png"}]},
            {"image1": "b.png", "mask1": "b_mask.png", "image2": "c.png", "mask2": "c_mask.png"},
            {"image": "d.png", "conversations": spoken},
            {
                "image": "d.png",
                "masks": ["a_mask.png", None, {"mask": None, "label": "hip"}, {"mask": "b_mask.png"}],
            },
            {"image": "c.png", "conversations": [{"from": "gpt", "value": "No mask"}]},
        ]
    )
    assert failures == []
    assert names(found[:-1]) == [("a", "a"), ("b", "b"), ("c", "c"), ("d", "d"), ("d", "a")]
    assert found[-1].image.stem == "d" and found[-1].mask["mask"].endswith("/b_mask.png")


def test_patient_and_keys_are_those_of_the_row_s_own_image(read):
    examples = [{"image": "b.png", "mask": "b_mask.png"}]
    row = {"image": "a.png", "target_mask": "a_mask.png", "icl_examples": examples, "patient": 7, "organ": "liver"}
    found, _ = read([row], keep=["organ", "side"])
    assert [(it.patient, it.kept) for it in found] == [("7", {"organ": "liver"}), (None, {})]


def test_bad_rows_are_named_and_the_others_kept(read):
    found, failures = read(
        [
            {"image": "a.png", "mask": "none.png"},
            "no row",
            {"image": ["a.png", "b.png"], "mask": "a_mask.png"},
            {"image": "a.png", "mask": 3},
            {"image": "a.png", "mask": "a_mask.png", "patient": 1.5},
            {"image": "c.png", "mask": "c_mask.png"},
        ]
    )
    assert names(found) == [("c", "c")]
    assert [failure.name.rsplit(", ", 1)[-1] for failure in failures] == [f"row {number}" for number in range(5)]
    reasons = [
        "none.png does not exist",
        "a row must be an object, not str",
        "'image' of a row with a mask must be one path",
        "a mask must be the path of a file or an object, not int",
        "'patient' must be a text or a whole number",
    ]
    assert all(reason in failure.reason for reason, failure in zip(reasons, failures, strict=True))


def test_a_file_without_a_candidate_says_so(read):
    with pytest.raises(UserError, match=r"holds no image with a mask: a row needs 'image' and 'mask' or 'masks'$"):
        read([{"image": "a.png"}])
    with pytest.raises(UserError, match=r"the first problem: .*row 0: image none.png does not exist"):
        read([{"image": "none.png", "mask": "a_mask.png"}])
