import pytest

from medcap.cli import main
from medcap.datasets.preparing.reorganize import MISSING, OTHER, OUTSIDE, reorganize
from medcap.errors import UserError


@pytest.fixture
def originals(tmp_path):
    folder = tmp_path / "raw"
    (folder / "CVC").mkdir(parents=True)
    (folder / "CVC/1.tif").write_bytes(b"one")
    (folder / "CVC/2.tif").write_bytes(b"two")
    return folder


def table(tmp_path, *lines):
    path = tmp_path / "data_reorganize.csv"
    path.write_text("original,target\n" + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_files_are_copied_renamed_and_those_that_lack_are_listed(tmp_path, originals):
    out = tmp_path / "out"
    path = table(tmp_path, "CVC/1.tif,Train/polyp/11.tif", r"CVC\2.tif,Train\polyp\12.tif", "CVC/3.tif,Train/13.tif")
    result = reorganize(path, originals, out)
    assert (result.copied, result.same, result.left) == (2, 0, {MISSING: ["CVC/3.tif"]})
    assert (out / "Train/polyp/11.tif").read_bytes() == b"one"
    assert (out / "Train/polyp/12.tif").read_bytes() == b"two"
    assert (originals / "CVC/1.tif").is_file()
    again = reorganize(path, originals, out)
    assert (again.copied, again.same) == (0, 2)


def test_another_file_is_never_replaced_unasked(tmp_path, originals):
    path = table(tmp_path, "CVC/1.tif,a.tif", "CVC/2.tif,a.tif")
    result = reorganize(path, originals, tmp_path / "out")
    assert (result.copied, result.left) == (1, {OTHER: ["a.tif"]})
    assert (tmp_path / "out/a.tif").read_bytes() == b"one"
    (tmp_path / "out/a.tif").write_bytes(b"changed")
    assert reorganize(table(tmp_path, "CVC/1.tif,a.tif"), originals, tmp_path / "out", overwrite=True).copied == 1
    assert (tmp_path / "out/a.tif").read_bytes() == b"one"


def test_paths_stay_in_their_folders(tmp_path, originals):
    (tmp_path / "secret.tif").write_bytes(b"secret")
    (originals / "link.tif").symlink_to(tmp_path / "secret.tif")
    path = table(tmp_path, "../secret.tif,a.tif", "link.tif,b.tif", "CVC/1.tif,../c.tif", "CVC/1.tif,/d.tif", ",e.tif")
    result = reorganize(path, originals, tmp_path / "out")
    assert result.left == {OUTSIDE: ["../secret.tif", "link.tif", "../c.tif", "/d.tif", ""]}
    assert not (tmp_path / "c.tif").exists()


def test_the_command_lists_what_is_missing(tmp_path, originals, capsys):
    path = table(tmp_path, "CVC/1.tif,a.tif", "CVC/9.tif,b.tif")
    words = ["prepare", "reorganize", "--csv", str(path), "--base-original", str(originals)]
    with pytest.raises(SystemExit) as exit_status:
        main([*words, "--base-target", str(tmp_path / "out"), "--list", str(tmp_path / "left.txt")])
    assert exit_status.value.code == 1
    assert "not copied 1: missing: CVC/9.tif" in capsys.readouterr().out
    assert (tmp_path / "left.txt").read_text(encoding="utf-8") == "missing\tCVC/9.tif\n"


def test_impossible_sources_are_named(tmp_path, originals):
    with pytest.raises(UserError, match="is not a folder of originals"):
        reorganize(table(tmp_path), tmp_path / "nowhere", tmp_path / "out")
    path = table(tmp_path)
    path.write_text("from,to\na,b\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"data_reorganize.csv.*original"):
        reorganize(path, originals, tmp_path / "out")
