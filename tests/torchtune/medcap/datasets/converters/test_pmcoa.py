import pytest

from helpers.downloads import PMC_OA_IMAGES, Downloads, left_out, rows_of, write_pmcoa
from medcap.datasets.conversion.instructions import DESCRIBE
from medcap.datasets.conversion.run import convert
from medcap.datasets.converters.pmcoa import PmcOa
from medcap.errors import UserError


def test_the_rows_are_medcap_s(tmp_path, monkeypatch):
    write_pmcoa(Downloads(tmp_path / "datasets"))
    monkeypatch.chdir(tmp_path)
    (written,) = convert(PmcOa(), "./datasets", "./datasets/medcap")
    assert str(written.path) == "datasets/medcap/pmcoa_train.json"
    assert rows_of(written) == [
        {
            "conversations": [{"from": "human", "value": "①" * 50}, {"from": "gpt", "value": "lesion (1) seen"}],
            "image": "PMC1_a.jpg",
            "meta": f"dir=./datasets/{PMC_OA_IMAGES}",
        },
        {
            "conversations": [
                {"from": "human", "value": "①" * 50},
                {"from": "gpt", "value": "Normal chest radiograph."},
            ],
            "image": "PMC2_b.jpg",
            "meta": f"dir=./datasets/{PMC_OA_IMAGES}",
        },
    ]


def test_fixed_says_a_whole_instruction(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_pmcoa(downloads)
    (written,) = downloads.convert(PmcOa(), instruction="fixed")
    values = {row["conversations"][0]["value"] for row in rows_of(written)}
    assert values == {"①" * 50 + "\n\n" + DESCRIBE[0]} == {"①" * 50 + "\n\nDescribe this image."}


def test_damaged_rows_are_left_out_with_the_reason(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    image = "PMC1_a.jpg"
    downloads.images(PMC_OA_IMAGES, image)
    downloads.lines(
        "pmc_oa/train.jsonl",
        [
            {"image": image, "caption": "good"},
            '{"image": "PMC1_a.jpg", "caption": "cut',
            [1],
            {"image": image},
            {"image": image, "caption": " "},
            {"image": image, "caption": ["a"]},
            {"image": "../secret.jpg", "caption": "a"},
            {"image": "/etc/secret.jpg", "caption": "a"},
            {"image": "lost.jpg", "caption": "a"},
            {"image": image, "caption": "\ud800"},
            {"image": image, "caption": "<image>"},
        ],
    )
    (written,) = downloads.convert(PmcOa())
    assert (written.rows, written.tally.read) == (1, 11)
    assert left_out(written) == {
        "not valid JSON": 1,
        "the row is not an object": 1,
        "there is no 'caption'": 1,
        "'caption' is empty": 1,
        "'caption' is not text": 1,
        "the image's name leads out of its folder": 2,
        "the image is missing": 1,
        "half of a character, which no text may hold": 1,
        "a turn without words": 1,
    }
    assert written.tally.first["there is no 'caption'"] == f"{tmp_path}/datasets/pmc_oa/train.jsonl, row 3"
    assert written.tally.first["the image is missing"] == f"{tmp_path}/datasets/{PMC_OA_IMAGES}/lost.jpg"


def test_what_is_missing_is_named_before_anything_is_written(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    with pytest.raises(UserError, match=r"^pmcoa: .*/pmc_oa/train.jsonl does not exist: download axiong/pmc_oa"):
        downloads.convert(PmcOa())
    downloads.lines("pmc_oa/train.jsonl", [{"image": "a.jpg", "caption": "a"}])
    with pytest.raises(UserError, match=rf"{PMC_OA_IMAGES} does not exist: download axiong/pmc_oa"):
        downloads.convert(PmcOa())
    assert not (tmp_path / "out").exists()
