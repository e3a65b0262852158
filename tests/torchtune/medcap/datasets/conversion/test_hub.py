from helpers.downloads import Downloads
from medcap.datasets.conversion.base import Folders
from medcap.datasets.conversion.hub import hub_files


def test_files_of_a_split_in_their_order_in_either_layout(tmp_path):
    downloads = Downloads(tmp_path / "d[1]")
    folders = Folders(str(downloads.folder), tmp_path)
    assert hub_files(folders, ("set",), "train") == []
    for name in ("train-00001-of-00002", "train-00000-of-00002", "test-00000-of-00001"):
        downloads.text(f"set/data/{name}.parquet", "")
    downloads.text("other/default/train/0000.parquet", "")
    names = [path.name for path in hub_files(folders, ("none", "set", "other"), "train")]
    assert names == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert [path.name for path in hub_files(folders, ("other",), "train")] == ["0000.parquet"]
