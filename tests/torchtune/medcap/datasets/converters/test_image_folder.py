import pytest

from helpers.downloads import Downloads, left_out, rows_of, said, write_own
from medcap.datasets.conversion.run import convert
from medcap.datasets.converters.image_folder import ImageFolder
from medcap.errors import UserError


@pytest.fixture
def downloads(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_own(downloads)
    return downloads


def run(downloads, name, converter, **options):
    (written,) = convert(converter, str(downloads.folder / name), downloads.folder / "out", **options)
    return written


def test_the_words_are_in_the_file_beside_the_image(downloads):
    downloads.images("mine", "c.png", "deep/d.jpg")
    downloads.text("mine/c.txt", " ")
    downloads.text("mine/deep/d.txt", "Deep.")
    written = run(downloads, "mine", ImageFolder())
    assert written.path.name == "mine.jsonl"
    assert [(row["image"], said(row)) for row in rows_of(written)] == [
        ("a.png", ["<image>", "A caption."]),
        ("deep/d.jpg", ["<image>", "Deep."]),
    ]
    assert left_out(written) == {"there is no .txt of its name": 1, "its .txt is empty": 1}


def test_the_words_are_the_first_folder_s_name(downloads):
    downloads.images("classes", "none.png", "nodule/deep/3.png")
    written = run(downloads, "classes", ImageFolder("class", "Which class is this?"))
    assert [(row["image"], said(row)) for row in rows_of(written)] == [
        ("no_finding/1.png", ["<image>\n\nWhich class is this?", "no finding"]),
        ("nodule/2.PNG", ["<image>\n\nWhich class is this?", "nodule"]),
        ("nodule/deep/3.png", ["<image>\n\nWhich class is this?", "nodule"]),
    ]
    assert left_out(written) == {"an image that is in no class's folder": 1}


def test_a_folder_must_be_named(downloads):
    with pytest.raises(UserError, match=r"folder: --data-dir \(not given\) is no folder"):
        convert(ImageFolder(), "", downloads.folder / "out")
