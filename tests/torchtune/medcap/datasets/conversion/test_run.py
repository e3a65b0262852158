import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.downloads import PMC_OA_IMAGES, Downloads, rows_of, write_own, write_pmcoa, write_textplus
from helpers.tokenizers import tiny_tokenizer_file
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.datasets.chat import chat_dataset
from medcap.datasets.conversion.run import convert, image_roots, summary
from medcap.datasets.converters.coco import CocoBoxes
from medcap.datasets.converters.image_folder import ImageFolder
from medcap.datasets.converters.pmcoa import PmcOa
from medcap.datasets.converters.textplus import TextPlusPmcOaPatients
from medcap.datasets.converters.vqarad import VqaRadText
from medcap.errors import UserError
from medcap.models.tokenizers import llama3_tokenizer


@pytest.fixture
def downloads(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_pmcoa(downloads)
    return downloads


def test_out_is_a_folder_or_the_file_itself(downloads, tmp_path):
    (array,) = convert(PmcOa(), str(downloads.folder), tmp_path / "a/b.json")
    (lines,) = convert(PmcOa(), str(downloads.folder), tmp_path / "a/b.jsonl")
    assert array.path.read_bytes()[:2] == b"[\n"
    assert rows_of(array) == rows_of(lines)
    assert len(rows_of(lines)) == 2
    with pytest.raises(UserError, match=r"vqarad writes vqarad_train.json, vqarad_test.json: name their folder"):
        Downloads(tmp_path / "d").text("VQA_RAD/train_text.json", "[]")
        Downloads(tmp_path / "d").text("VQA_RAD/test_text.json", "[]")
        (tmp_path / "d/VQA_RAD/VQA_RAD Image Folder").mkdir()
        convert(VqaRadText(), str(tmp_path / "d"), tmp_path / "b.json")
    with pytest.raises(UserError, match=r"--out .*file.txt: name a folder, or a file that ends in .jsonl or .json"):
        (tmp_path / "file.txt").touch()
        convert(PmcOa(), str(downloads.folder), tmp_path / "file.txt")
    with pytest.raises(UserError, match="--limit 0 must be at least 1"):
        convert(PmcOa(), str(downloads.folder), tmp_path, limit=0)


def test_a_source_is_not_written_over(tmp_path):
    table = tmp_path / "mine.json"
    table.write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(UserError, match=r"--out .*mine.json would replace the file that is read: name another one"):
        convert(CocoBoxes(file=str(table)), str(tmp_path), table)
    downloads = Downloads(tmp_path / "datasets")
    write_pmcoa(downloads)
    source = downloads.folder / "pmc_oa/train.jsonl"
    before = source.read_bytes()
    with pytest.raises(UserError, match=r"--out .*train.jsonl would replace the file that is read"):
        convert(PmcOa(), str(downloads.folder), source)
    assert source.read_bytes() == before


def test_every_run_writes_the_same_bytes(tmp_path, monkeypatch):
    contents = set()
    scandir = os.scandir

    class Backwards:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.chdir(tmp_path)
    downloads = Downloads(tmp_path / "datasets")
    write_textplus(downloads)
    write_pmcoa(downloads)
    for listing in (scandir, Backwards):
        monkeypatch.setattr("medcap.datasets.conversion.listing.os.scandir", listing)
        (written,) = convert(TextPlusPmcOaPatients(), "./datasets", "./out", instruction="random", seed=3)
        contents.add(written.path.read_bytes())
    assert len(contents) == 1
    (limited,) = convert(TextPlusPmcOaPatients(), "./datasets", "./few", instruction="random", seed=3, limit=7)
    assert rows_of(limited) == rows_of(written)[:7]


def test_training_reads_what_was_converted(tmp_path, monkeypatch):
    write_textplus(downloads := Downloads(tmp_path / "datasets"))
    write_pmcoa(downloads)
    write_own(downloads)
    tokenizer = ChatTokenizer(llama3_tokenizer(str(tiny_tokenizer_file(tmp_path / "tokenizer"))), 4)
    monkeypatch.chdir(tmp_path)
    for converter, data, rows in (
        (TextPlusPmcOaPatients(), "./datasets", 12),
        (PmcOa(), "./datasets", 2),
        (ImageFolder("class", "Which class?"), "datasets/classes", 2),
    ):
        (written,) = convert(converter, data, "./datasets/medcap")
        assert image_roots(written, data) == []
        dataset = chat_dataset(tokenizer, source=str(written.path), max_seq_len=200, packed=True)
        assert (dataset.num_rows, dataset.bad, dataset.check_images(limit=20)) == (rows, [], [])


def test_where_training_must_look_is_said(downloads, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (written,) = convert(PmcOa(), str(downloads.folder), "out")
    assert image_roots(written, str(downloads.folder)) == [downloads.folder]
    tokenizer = ChatTokenizer(llama3_tokenizer(str(tiny_tokenizer_file(tmp_path / "tokenizer"))), 4)
    with pytest.raises(UserError, match="lies outside the allowed folders"):
        chat_dataset(tokenizer, source=str(written.path), max_seq_len=200)
    dataset = chat_dataset(tokenizer, source=str(written.path), max_seq_len=200, image_roots=[str(downloads.folder)])
    assert dataset.bad == []
    assert summary(written, str(downloads.folder)).splitlines()[-1] == (
        f"  use it as dataset.source=out/pmcoa_train.json 'dataset.image_roots=[\"{downloads.folder}\"]'"
    )


def test_a_folder_that_is_a_link_to_another_disk_is_a_root_of_its_own(downloads, tmp_path, monkeypatch):
    images = downloads.folder / PMC_OA_IMAGES
    images.rename(tmp_path / "disk")
    images.symlink_to(tmp_path / "disk", target_is_directory=True)
    monkeypatch.chdir(downloads.folder)
    (written,) = convert(PmcOa(), ".", "medcap")
    assert image_roots(written, ".") == [tmp_path / "disk"]


def test_the_summary_counts_what_is_left_out(downloads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (downloads.folder / PMC_OA_IMAGES / "PMC2_b.jpg").unlink()
    (written,) = convert(PmcOa(), "datasets", "out")
    assert summary(written, "datasets").splitlines() == [
        "wrote 1 row to out/pmcoa_train.json (records read: 2)",
        f"  left out 1: the image is missing (first: datasets/{PMC_OA_IMAGES}/PMC2_b.jpg)",
        "  use it as dataset.source=out/pmcoa_train.json",
    ]
    (written,) = convert(PmcOa(), "datasets", "out", keep_missing=True)
    assert summary(written, "datasets").splitlines()[1].startswith("  kept 1 rows whose image is not there: name the")


MEASURE = """
import sys
from pathlib import Path
from medcap.datasets.conversion.run import convert
from medcap.datasets.converters.registry import CONVERTERS

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

name, few, many = sys.argv[1:]
convert(CONVERTERS[name](), few, "out")
before = peak()
(written,) = convert(CONVERTERS[name](), many, "out")
print(written.rows, peak() - before)
"""


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("name", ["llava-med", "pmcvqa"])
def test_memory_stays_flat(tmp_path, name):
    words = "a small round opacity in the left lower lobe with no pleural effusion " * 30
    turns = [{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": words}]
    record = json.dumps({"id": "1", "image": "a.jpg", "conversations": turns})
    line = f"a.jpg,{words},A:a,B:b,C:c,D:d,C\n"
    heading = "Figure_path,Question,Choice A,Choice B,Choice C,Choice D,Answer\n"
    for folder, count in (("few", 6_000), ("many", 20_000)):
        downloads = Downloads(tmp_path / folder)
        if name == "llava-med":
            downloads.images("llava_med/images", "a.jpg")
            file = "llava_med/llava_med_instruct_60k_inline_mention.json"
            downloads.text(file, f"[{', '.join([record] * count)}]")
        else:
            downloads.images("PMC-VQA/images", "a.jpg")
            downloads.text("PMC-VQA/train.csv", heading + line * count)
    # A process of its own: what other tests have used does not count.
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, name, "few", "many"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    rows, growth = map(int, done.stdout.split())
    assert rows == 20_000
    # kB: the 14,000 rows more, held in memory, would be 30,000.
    assert growth < 8_000
