from helpers.downloads import Downloads
from medcap.datasets.conversion.listing import sorted_files


def test_files_are_sorted_by_name_whatever_their_folder(tmp_path):
    Downloads(tmp_path).images(".", "b.png", "a/z.PNG", "a.jpg", ".hidden.png", "a-b.png", "notes.txt", "a/deep/c.jpg")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    names = ["a-b.png", "a.jpg", "a/deep/c.jpg", "a/z.PNG", "b.png"]
    assert list(sorted_files(tmp_path, (".png", ".jpg"), recursive=True)) == names
    assert list(sorted_files(tmp_path, (".png", ".jpg"))) == ["a-b.png", "a.jpg", "b.png"]
