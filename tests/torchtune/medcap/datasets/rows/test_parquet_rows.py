import io

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from medcap.datasets.rows.parquet_rows import ImageStore, image_content, read_parquet
from medcap.errors import UserError


def encoded(colour):
    content = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(content, format="PNG")
    return content.getvalue()


def test_an_image_that_a_kill_cut_short_is_written_again(tmp_path):
    store = ImageStore(tmp_path)
    path = store.write(encoded("red"))
    path.write_bytes(b"\x89PNG")
    assert store.write(encoded("red")) == path
    assert path.read_bytes() == encoded("red")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"image .* cannot be written"):
        ImageStore(tmp_path / "file").write(encoded("red"))


def test_an_image_is_bytes_with_or_without_a_name():
    assert image_content({"bytes": b"a", "path": "a.png"}) == image_content(b"a") == b"a"
    assert [image_content(value) for value in (None, {}, {"bytes": None}, b"", "a.png")] == [None] * 5


def test_a_damaged_file_and_a_missing_column_are_named(tmp_path):
    path = tmp_path / "test.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"question": ["q"]}), path)
    with pytest.raises(UserError, match=r"test.parquet has no column 'answer' \(it has: question\)"):
        list(read_parquet(path, ("question", "answer")))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"^[^\n]*test.parquet: not a readable parquet file[^\n]*download it again$"):
        list(read_parquet(path, ("question",)))


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pyarrow.table([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has 2 columns 'text': rename or remove all but one"):
        list(read_parquet(tmp_path / "a.parquet", ["text"]))
