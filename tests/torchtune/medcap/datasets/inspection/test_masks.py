import json

import numpy as np
import pytest

from helpers.mask_sets import LIVER, SPLEEN, write_image, write_values
from medcap.cli import main
from medcap.data.regions.run_length import encode
from medcap.datasets.inspection.rows import RowChecker
from medcap.datasets.rows.source import open_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    write_image(folder / "a.png")
    write_values(folder / "liver.png", 255 * LIVER)
    write_values(folder / "organs.png", 1 * LIVER + 2 * SPLEEN)
    write_values(folder / "empty.png", 0 * LIVER)
    write_values(folder / "small.png", np.ones((3, 3)))
    return folder


def rows_file(folder, *rows):
    turns = [{"from": "human", "value": "<image>\nSegment it."}]
    made = [
        {"image": "a.png", "conversations": [*turns, {"from": "gpt", "value": answer}]} | fields
        for answer, fields in rows
    ]
    path = folder / "rows.json"
    path.write_text(json.dumps(made), encoding="utf-8")
    return path


def look(folder, answer, **fields):
    rows, reader = open_source(str(rows_file(folder, (answer, fields))), [folder], 10**6)
    facts = RowChecker(rows, reader)(0)
    return [mask.state for mask in facts.masks], facts.problem and facts.problem.reason


@pytest.mark.parametrize(
    ("answer", "fields", "states"),
    [
        ("liver <SEG>", {"masks": ["liver.png"]}, ["good"]),
        ("<SEG><mask>liver.png</mask>", {}, ["good"]),
        ("", {"masks": [{"mask": "organs.png", "value": 2}, encode(LIVER)]}, ["good", "good"]),
        ("liver <SEG>", {"masks": ["organs.png"]}, ["values"]),
        ("liver <SEG>", {"masks": [{"mask": None, "label": "liver"}]}, ["absent"]),
        ("There is no liver.", {"masks": []}, []),
        ("A liver.", {"masks": ["liver.png"]}, ["unnamed"]),
    ],
)
def test_good_masks_are_judged(folder, answer, fields, states):
    assert look(folder, answer, **fields) == (states, None)


@pytest.mark.parametrize(
    ("answer", "fields", "states", "reason"),
    [
        ("<SEG>", {"masks": ["small.png"]}, ["size"], "has 3 x 3 pixels and its image 12 x 8"),
        ("<SEG>", {"masks": ["empty.png"]}, ["empty"], "holds no pixel"),
        ("<SEG>", {"masks": [{"box": [20, 1, 30, 2]}]}, ["empty"], "holds no pixel"),
        ("<SEG>", {"masks": [{"mask": "liver.png", "value": 3}]}, ["empty"], "none has the value 3"),
        ("<SEG>", {"masks": [{"size": [8, 12], "counts": "!"}]}, ["unreadable"], "cannot be read"),
        ("<SEG>", {"masks": ["/etc/hostname"]}, [], "mask file /etc/hostname lies outside the allowed folders"),
        ("<SEG>", {"masks": ["gone.png"]}, [], "mask file gone.png does not exist"),
        ("<SEG> <SEG>", {"masks": ["liver.png"]}, [], "2 <SEG> in its answers but 1 mask"),
        ("<SEG>", {}, [], "1 <SEG> in its answers but no 'masks'"),
    ],
)
def test_bad_masks_make_their_row_bad(folder, answer, fields, states, reason):
    found, problem = look(folder, answer, **fields)
    assert found == states
    assert reason in problem


@pytest.mark.slow
def test_the_commands_count_masks_and_name_bad_ones(folder, capsys):
    label = {"mask": "liver.png", "label": "liver"}
    path = rows_file(
        folder, ("<SEG>", {"masks": [label]}), ("no", {"masks": [label]}), ("<SEG>", {"masks": ["empty.png"]})
    )
    with pytest.raises(SystemExit):
        main(["validate", str(path), "--processes", "1", "--json", str(folder / "found.json")])
    printed = capsys.readouterr().out
    assert "masks: 3 in 3 rows, at most 1 in one" in printed
    assert "area in % of the image: min 20.83, median 20.83, max 20.83" in printed
    assert "labels: liver 2" in printed
    assert "1 is named by no <SEG>: training does not show it (first in row 1: liver.png (liver))" in printed
    assert "1 holds no pixel of its image (first in row 2:" in printed
    assert "1 of 3 rows cannot be used (masks 1)" in printed
    found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    assert found["masks"]["states"] == {"good": 1, "unnamed": 1, "empty": 1}
    assert found["rules"] == {"masks": 1}
    main(["stats", str(path), "--processes", "1", "--json", str(folder / "stats.json")])
    assert "masks: 3 in 3 rows" in capsys.readouterr().out
    assert json.loads((folder / "stats.json").read_text(encoding="utf-8"))["masks"]["labels"] == {"liver": 2}
