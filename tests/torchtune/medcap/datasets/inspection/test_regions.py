import json
import math

import numpy as np
import pytest

from helpers.mask_sets import LIVER, write_image, write_values
from medcap.cli import main
from medcap.datasets.inspection.rows import RowChecker
from medcap.datasets.inspection.survey import survey
from medcap.datasets.inspection.validation import validate
from medcap.datasets.rows.source import open_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("regions")
    write_image(folder / "a.png")
    write_values(folder / "liver.png", 255 * LIVER)
    write_values(folder / "empty.png", 0 * LIVER)
    write_values(folder / "small.png", np.ones((3, 3)))
    return folder


def checker(folder, *rows):
    made = [
        {
            "image": "a.png",
            "conversations": [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}],
        }
        | fields
        for question, answer, fields in rows
    ]
    path = folder / "rows.json"
    path.write_text(json.dumps(made), encoding="utf-8")
    return RowChecker(*open_source(str(path), [folder], 10**6))


def asked(*regions, question="What is <region></region>?"):
    return question, "An organ.", {"regions": list(regions)}


@pytest.mark.parametrize("region", [[1, 2, 3, 4], {"point": [4, 4], "radius": 2}, "liver.png"])
def test_good_regions_are_counted(folder, region):
    facts = checker(folder, asked(region))(0)
    assert facts.problem is None and [one.state for one in facts.regions] == ["good"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (asked("empty.png"), "holds no pixel"),
        (asked("small.png"), "has 3 x 3 pixels and its image 12 x 8"),
        (asked([50, 50, 60, 60]), "holds no pixel of its image of 12 x 8"),
        (asked([5, 5, 5, 9]), "has no area"),
        (asked({"point": [math.nan, 4], "radius": 3}), "a point is 'point' [x, y] and 'radius'"),
        (asked({"point": [4, 4], "radius": 0}), "a point is 'point' [x, y] and 'radius'"),
        (asked({"bbox": [1, 2, 3, 4]}), "a region has one of box, point, polygon, mask"),
        (asked(), "1 <region></region> in its questions but 0 regions"),
    ],
)
def test_a_region_that_training_refuses_makes_its_row_bad(folder, row, reason):
    problem = checker(folder, row)(0).problem
    assert problem.rule == "regions" and reason in problem.reason


def test_rows_that_differ_in_what_their_words_stand_for_are_no_repeats(folder):
    rows = [
        asked([1, 2, 3, 4]),
        asked([1, 2, 3, 5]),
        asked([1, 2, 3, 4]),
        ("What is <region>liver.png</region>?", "An organ.", {}),
        ("What is it?", "An organ.", {"boxes": [[1, 2, 3, 4]]}),
        ("What is it?", "An organ.", {"boxes": [[1, 2, 3, 5]]}),
        ("Outline it.", "<SEG>", {"masks": [[1, 2, 3, 4]]}),
        ("Outline it.", "<SEG>", {"masks": [[1, 2, 3, 5]]}),
        ("Outline it.", "<SEG><mask>liver.png</mask>", {}),
    ]
    found = validate(survey(checker(folder, *rows), 1))
    assert not found.survey.problems
    assert found.same_rows == [[0, 2]]


def test_the_commands_count_regions_and_name_bad_ones(folder, capsys):
    path = str(checker(folder, asked({"box": [0, 0, 6, 4], "label": "liver"}), asked("empty.png")).rows.path)
    with pytest.raises(SystemExit):
        main(["validate", path, "--processes", "1"])
    printed = capsys.readouterr().out
    assert "regions: 2 in 2 rows, at most 1 in one" in printed
    assert "1 of 2 rows cannot be used (regions 1)" in printed
    main(["stats", path, "--processes", "1", "--json", str(folder / "stats.json")])
    assert "labels: liver 1" in capsys.readouterr().out
    assert json.loads((folder / "stats.json").read_text(encoding="utf-8"))["regions"]["regions"] == 2
