import pytest

from medcap.data.images.suffixes import is_image_file, is_image_name, without_suffix


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a/b.png", "a/b"),
        ("a/b.NII.GZ", "a/b"),
        ("a.b/c.dicom", "a.b/c"),
        ("IM0001", "IM0001"),
        ("1.2.840.dcm", "1.2.840"),
        ("a/.png", "a/.png"),
        ("notes.txt", "notes.txt"),
    ],
)
def test_only_the_suffix_of_an_image_is_cut_off(name, stem):
    assert without_suffix(name) == stem


@pytest.mark.parametrize(
    "name", ["a.PNG", "a.jpeg", "a.tif", "a.webp", "a.bmp", "a.gif", "a.dcm", "a.Dicom", "a.nii.gz"]
)
def test_images_by_their_name(name):
    assert is_image_name(name) and is_image_name(f"folder.txt/{name}")


def test_a_file_of_any_name_that_begins_as_dicom_does(tmp_path):
    scan = bytes(128) + b"DICM"
    for name, content, expected in (
        ("IM0001", scan, True),
        ("1.2.840.10008", scan, True),
        ("DICOMDIR", scan, False),
        ("IM0002", scan[:-1], False),
        ("notes.txt", b"words", False),
        ("archive.gz", b"\x1f\x8b", False),
    ):
        (tmp_path / name).write_bytes(content)
        assert is_image_file(str(tmp_path / name)) is expected
    assert not is_image_file(str(tmp_path / "none"))
    assert not is_image_file(str(tmp_path))
