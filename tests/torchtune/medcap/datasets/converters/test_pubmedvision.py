from helpers.downloads import Downloads, left_out, rows_of, said, write_textplus
from medcap.datasets.converters.pubmedvision import PubMedVision


def test_a_row_for_each_image_by_name_and_the_last_record_counts(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_textplus(downloads)
    (written,) = downloads.convert(PubMedVision())
    assert [(row["image"], said(row)[1]) for row in rows_of(written)] == [
        ("v1.jpg", "From PubMedVision."),
        ("v2.jpg", "From a later record."),
    ]
    # Images that were taken away, such as diagrams, are missing.
    assert left_out(written) == {"the image is missing": 1}
    assert written.tally.first["the image is missing"].endswith("PMC-VQA-text/images_vision/diagram.jpg")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pubmedvision_train.jsonl"]


def test_records_without_images_or_words_are_left_out(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_textplus(downloads)
    turns = [{"from": "gpt", "value": "a"}]
    downloads.array(
        "PMC-VQA-text/PubMedVision_Alignment_VQA.json",
        [
            {"image": [], "conversations": turns},
            {"image": [3], "conversations": turns},
            {"image": ["v1.jpg"], "conversations": []},
            {"image": ["v1.jpg"], "conversations": [{"from": "gpt"}]},
            {"image": "v1.jpg", "conversations": turns},
        ],
    )
    (written,) = downloads.convert(PubMedVision())
    assert [said(row)[1] for row in rows_of(written)] == ["a"]
    assert left_out(written) == {
        "'image' is not a list of names": 2,
        "there are no 'conversations'": 1,
        "there is no 'value'": 1,
    }
