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


def test_the_words_are_in_the_file_next_to_the_image(downloads):
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
    with pytest.raises(UserError, match=r"folder: --data-dir \(not given\) is not a folder"):
        convert(ImageFolder(), "", downloads.folder / "out")


@pytest.fixture
def scans(downloads):
    """Names of scans in two class folders, and what is none."""
    folder = downloads.folder / "scans"
    for name in ("nodule/a.dcm", "nodule/b.DICOM", "normal/c.nii.gz", "normal/d.NII", "normal/IM0001"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(128) + b"DICM" + bytes(64))
    downloads.images("scans", "normal/e.tiff")
    return folder


def test_scans_are_images_whatever_their_suffix(downloads, scans):
    for name in ("normal/DICOMDIR", "normal/notes.csv", "nodule/a.txt", "nodule/.hidden"):
        (scans / name).write_text("no image")
    written = run(downloads, "scans", ImageFolder("class", "Which?"))
    assert [(row["image"], said(row)[1]) for row in rows_of(written)] == [
        ("nodule/a.dcm", "nodule"),
        ("nodule/b.DICOM", "nodule"),
        ("normal/IM0001", "normal"),
        ("normal/c.nii.gz", "normal"),
        ("normal/d.NII", "normal"),
        ("normal/e.tiff", "normal"),
    ]
    assert left_out(written) == {"a file that is not an image": 3}


def test_the_words_next_to_a_scan(downloads, scans):
    for name in ("nodule/a.txt", "normal/c.txt", "normal/IM0001.txt", "normal/f.jp2", "normal/f.txt", "normal/g.csv"):
        (scans / name).write_text(f"Words of {name}.")
    written = run(downloads, "scans", ImageFolder())
    assert [(row["image"], said(row)[1]) for row in rows_of(written)] == [
        ("nodule/a.dcm", "Words of nodule/a.txt."),
        ("normal/IM0001", "Words of normal/IM0001.txt."),
        ("normal/c.nii.gz", "Words of normal/c.txt."),
    ]
    assert left_out(written) == {"there is no .txt of its name": 3, "a file that is not an image": 1}
