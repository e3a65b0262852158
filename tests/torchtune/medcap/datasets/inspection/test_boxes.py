import json

import numpy as np
import pytest
from PIL import Image

from medcap.cli import main
from medcap.data.boxes.style import box_style
from medcap.datasets.inspection.boxes import BoxFacts, box_lines
from medcap.datasets.inspection.rows import RowChecker
from medcap.datasets.rows.source import open_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    Image.fromarray(np.zeros((100, 200), dtype=np.uint8)).save(folder / "a.png")
    return folder


def write(folder, *rows):
    made = [
        {
            "image": "a.png",
            "conversations": [{"from": "human", "value": f"<image>{asked}"}, {"from": "gpt", "value": answer}],
        }
        | fields
        for asked, answer, fields in rows
    ]
    path = folder / "rows.json"
    path.write_text(json.dumps(made), encoding="utf-8")
    return path


def facts(folder, asked, answer, **fields):
    rows, reader = open_source(str(write(folder, (asked, answer, fields))), [folder], 10**6)
    return RowChecker(rows, reader)(0).boxes


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("no box [1, 2, 3]", ()),
        ("{<0><0><100><50>}", (BoxFacts("coloninst", "inside", "{<0><0><100><50>}", 0.25),)),
        ("{<100><0><300><50>}", (BoxFacts("coloninst", "cut", "{<100><0><300><50>}", 0.25),)),
        ("{<200><0><300><50>}", (BoxFacts("coloninst", "lost", "{<200><0><300><50>}"),)),
        ("[0.5, 0.5, 1, 1]", (BoxFacts("shares", "inside", "[0.5, 0.5, 1, 1]", 0.25),)),
        ("[100, 0, 200, 100]", (BoxFacts("thousandths", "inside", "[100, 0, 200, 100]", pytest.approx(0.01), True),)),
        ("[100, 0, 500, 100]", (BoxFacts("thousandths", "inside", "[100, 0, 500, 100]", pytest.approx(0.04), False),)),
        ("<box>(1,2),(3,2000)</box>", (BoxFacts("qwen", "excess", "<box>(1,2),(3,2000)</box>"),)),
        ("[12, 40, 1280, 999]", (BoxFacts("", "malformed", "[12, 40, 1280, 999]"),)),
        ("[nan, 0, 1, 1]", (BoxFacts("", "malformed", "[nan, 0, 1, 1]"),)),
        ("{<1><2><3>}", (BoxFacts("", "malformed", "{<1><2><3>}"),)),
        ("<ref>a</ref><box>1,2,3,4</box>", (BoxFacts("", "malformed", "<box>1,2,3,4</box>"),)),
    ],
)
def test_each_box_is_judged(folder, answer, expected):
    assert facts(folder, "Where?", answer) == expected


def test_boxes_of_a_row_are_judged_beside_those_of_its_texts(folder):
    boxes = [[0, 0, 100, 50], {"box": [0, 0, float("nan"), 50]}, {"box": [0, 0, 9, 9], "image": 3}, None]
    assert facts(folder, "What is at [0.5, 0.5, 1, 1]?", "a", boxes=boxes) == (
        BoxFacts("boxes", "inside", "[0, 0, 100, 50]", 0.25),
        BoxFacts("boxes", "malformed", "[0, 0, nan, 50]"),
        BoxFacts("boxes", "lost", "[0, 0, 9, 9]"),
        BoxFacts("shares", "inside", "[0.5, 0.5, 1, 1]", 0.25),
    )


def test_a_row_without_a_box_opens_no_header(folder):
    rows, reader = open_source(str(write(folder, ("Where?", "there", {}))), [folder], 10**6)
    reader.shown_size = None
    assert RowChecker(rows, reader, boxes=box_style({"box_write": "qwen"}))(0).problem is None


def validate(path, *arguments):
    try:
        return main(["validate", str(path), "--processes", "1", *map(str, arguments)])
    except SystemExit as end:
        return end.code


@pytest.mark.processes
def test_validate_says_which_boxes_there_are(folder, capsys):
    path = write(
        folder,
        ("Where?", "{<0><0><100><50>}", {}),
        ("Where?", "{<100><0><300><50>} and {<200><0><300><50>}", {}),
        ("Where?", "there", {"boxes": [[0, 0, 20, 10]]}),
        ("Where?", "[12, 40, 1280, 999]", {}),
        ("Where?", "nowhere", {}),
    )
    assert validate(path, "--json", folder / "found.json") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1:6] == [
        "boxes: 4 in 4 rows, at most 2 in one (3 as coloninst, 1 under boxes)",
        "  area in % of the image: min 1.00, median 25.00, max 25.00",
        "  1 reaches beyond its image and is cut there (first in row 1: {<100><0><300><50>})",
        "  1 is outside its image or has no area (first in row 1: {<200><0><300><50>})",
        "  1 looks like a box but is not in a notation that is read; pixels in brackets belong under 'boxes' (first in"
        " row 3: [12, 40, 1280, 999])",
    ]
    assert json.loads((folder / "found.json").read_text())["boxes"]["states"] == {
        "inside": 2,
        "cut": 1,
        "lost": 1,
        "malformed": 1,
    }


@pytest.mark.processes
def test_numbers_of_another_notation_than_the_named_one_are_told(folder, capsys):
    path = write(folder, ("Where?", "[12, 40, 1280, 999]", {}), ("Where?", "[12, 40, 128, 99]", {}))
    assert validate(path, "--box-format", "thousandths") == 1
    printed = capsys.readouterr().out
    assert (
        "bad row 0: [12, 40, 1280, 999] holds 1280, more than thousandths can: name the notation of this file by"
        " dataset.box_format, or correct the box"
    ) in printed
    assert "  1 holds numbers larger than its notation can (first in row 0: [12, 40, 1280, 999])" in printed
    assert "1 of 2 rows cannot be used (boxes 1)" in printed


@pytest.mark.processes
def test_thousandths_that_are_probably_pixels_are_told(folder, capsys):
    rows = [("Where?", f"[{number}, 10, {180 + number}, 90]", {}) for number in range(20)]
    assert validate(write(folder, *rows)) == 0
    assert "these may be pixels and not thousandths" in capsys.readouterr().out
    assert validate(write(folder, *rows, ("Where?", "[500, 500, 900, 900]", {}))) == 0
    assert "pixels" not in capsys.readouterr().out


@pytest.mark.processes
def test_stats_counts_the_boxes_and_says_nothing_without_any(folder, capsys):
    main(["stats", str(write(folder, ("Where?", "[0.5, 0.5, 1, 1] or {<0><0><100><50>}", {}))), "--processes", "1"])
    printed = capsys.readouterr().out
    assert "boxes: 2 in 1 row, at most 2 in one (1 as shares, 1 as coloninst)" in printed
    assert "the texts hold several notations" in printed
    main(["stats", str(write(folder, ("Where?", "there", {}))), "--processes", "1"])
    assert "boxes:" not in capsys.readouterr().out
    assert box_lines(None) == []


def test_an_image_that_cannot_be_read_is_told_once_of_a_row_with_boxes(folder, capsys):
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    path = write(folder, ("Where?", "Here <BOX>.", {"image": "damaged.png", "boxes": [[1, 1, 2, 2]]}))
    with pytest.raises(SystemExit):
        main(["validate", str(path)])
    printed = "".join(capsys.readouterr())
    assert printed.count("is not a readable image") == 1
    assert "1 of 1 row cannot be used (image 1)" in printed
