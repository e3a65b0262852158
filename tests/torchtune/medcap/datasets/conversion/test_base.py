import pytest

from medcap.datasets.conversion.base import Folders
from medcap.datasets.converters.pmcoa import PmcOa
from medcap.errors import UserError


def test_the_first_name_that_exists_is_taken(tmp_path):
    folders = Folders(f"{tmp_path}/./d", tmp_path)
    (tmp_path / "d/b").mkdir(parents=True)
    assert PmcOa().need(folders, "a", "b", "c") == f"{tmp_path}/./d/b"
    with pytest.raises(UserError, match=rf"^pmcoa: {tmp_path}/./d/a \(nor c\) does not exist: download axiong/pmc_oa"):
        PmcOa().need(folders, "a", "c")


def test_images_need_a_folder_unless_they_may_be_missing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file is not a folder: .*; medcap download fetches it \(pmc-oa\)$"):
        PmcOa().need_images(Folders(str(tmp_path), tmp_path), "file")
    kept = Folders(str(tmp_path), tmp_path, keep_missing=True)
    assert PmcOa().need_images(kept, "images", "figures") == f"{tmp_path}/images"
    (tmp_path / "figures").mkdir()
    assert PmcOa().need_images(kept, "images", "figures") == f"{tmp_path}/figures"
