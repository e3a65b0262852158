import pytest

from helpers.downloads import Downloads, left_out, rows_of, said
from helpers.mask_sets import LIVER, PART, SIZE, SPLEEN, masks_of, write_image, write_values
from medcap.datasets.converters.slake_masks import SlakeMasks
from medcap.datasets.published.slake_masks import read_classes
from medcap.errors import UserError


@pytest.fixture
def downloads(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    rows = []
    for number in range(3):
        write_image(downloads.folder / f"Slake1.0/imgs/xmlab{number}/source.jpg")
        row = {"img_name": f"xmlab{number}/source.jpg", "question": "Which?", "answer": "CT", "q_lang": "en"}
        rows += [row | {"modality": "CT", "location": "Abdomen"}] * 2
    for name in ("train", "validate", "test"):
        downloads.array(f"Slake1.0/{name}.json", rows)
    downloads.text("Slake1.0/mask.txt", "1:Liver\n3:Brain_Edema\n")
    return downloads


def test_values_in_the_first_channel_are_named_by_the_table(downloads):
    values = 1 * LIVER + 3 * SPLEEN + 9 * PART
    coloured = values[..., None] * [1, 20, 0]
    write_values(downloads.folder / "Slake1.0/imgs/xmlab0/mask.png", values)
    write_values(downloads.folder / "Slake1.0/imgs/xmlab1/mask.png", coloured)
    (written,) = downloads.convert(SlakeMasks(split="test", question=("Outline the {}.",)))
    rows = rows_of(written)
    assert written.path.name == "slake-masks_test.jsonl"
    assert [(row["image"], said(row)[1]) for row in rows] == [
        (f"xmlab{number}/source.jpg", f"{phrase} <SEG>.") for number in (0, 1) for phrase in ("liver", "brain edema")
    ]
    assert all((masks_of(row)["liver"] == LIVER).all() for row in rows[::2])
    assert (rows[0]["modality"], rows[0]["organ"], rows[0]["image_size"]) == ("CT", "Abdomen", list(SIZE))
    assert left_out(written) == {"values that mask.txt does not name": 2, "there is no mask.png": 1}


def test_colours_are_read_too(downloads):
    downloads.text("Slake1.0/mask.txt", "255,0,0: Liver\n(0, 255, 0): Spleen\n")
    picture = LIVER[..., None] * [255, 0, 0] + SPLEEN[..., None] * [0, 255, 0]
    write_values(downloads.folder / "Slake1.0/imgs/xmlab0/mask.png", picture)
    (written,) = downloads.convert(SlakeMasks())
    first, second = rows_of(written)
    assert (masks_of(first)["liver"] == LIVER).all()
    assert (masks_of(second)["spleen"] == SPLEEN).all()


def test_a_missing_or_damaged_table_is_named(downloads):
    with pytest.raises(UserError, match=r"mask.txt, line 2: expected a value or a colour and a name"):
        read_classes(downloads.text("Slake1.0/mask.txt", "1:Liver\nSpleen\n"))
    (downloads.folder / "Slake1.0/mask.txt").unlink()
    with pytest.raises(UserError, match=r"mask.txt .* does not exist"):
        downloads.convert(SlakeMasks())
