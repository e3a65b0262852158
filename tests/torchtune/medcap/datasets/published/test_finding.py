from helpers.downloads import Downloads
from medcap.datasets.published.finding import find_files, hub_files


def test_files_of_a_split_in_their_order_in_each_layout(tmp_path):
    downloads = Downloads(tmp_path / "d[1]")
    kinds = {"hub": hub_files("train")}
    assert find_files(downloads.folder, ("set",), kinds) is None
    for name in ("train-00001-of-00002", "train-00000-of-00002", "test-00000-of-00001"):
        downloads.text(f"set/data/{name}.parquet", "")
    downloads.text("other/default/train/0000.parquet", "")
    downloads.text("single/train.parquet", "")
    found = find_files(downloads.folder, ("none", "set", "other"), kinds)
    assert [path.name for path in found.files] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert (found.folder, found.kind) == (downloads.folder / "set", "hub")
    for folder, name in (("other", "0000.parquet"), ("single", "train.parquet")):
        assert [path.name for path in find_files(downloads.folder, (folder,), kinds).files] == [name]
