import pytest

from medcap.scoring.tables import averages, group_tables

GROUPS = [
    {"modality": "MR", "answer_type": "CLOSED"},
    {"modality": "CT", "answer_type": "CLOSED"},
    {"modality": "CT", "answer_type": "OPEN"},
    {"answer_type": "OPEN"},
    {"modality": "CT", "answer_type": "OPEN"},
]


def rows(*values, decided=True):
    return [{"value": value, "correct": bool(value) if decided else None} for value in values]


def test_a_line_for_each_group_and_one_for_rows_without_it():
    tables = group_tables(GROUPS, rows(1.0, 1.0, 0.0, 1.0, 0.0))
    assert list(tables) == ["modality", "answer_type"]
    none, ct, mr = tables["modality"]
    # Wilson's interval of 1 of 1.
    low = pytest.approx(0.2065, abs=5e-5)
    assert none == {"modality": "(none)", "n": 1, "right": 1, "value": 1.0, "low": low, "high": 1.0}
    assert (ct["modality"], ct["n"], ct["right"], ct["value"]) == ("CT", 3, 1, pytest.approx(1 / 3))
    assert (ct["low"], ct["high"]) == (0.0, 1.0)
    assert (mr["modality"], mr["n"], mr["right"], mr["value"]) == ("MR", 1, 1, 1.0)
    assert [(line["answer_type"], line["n"], line["right"]) for line in tables["answer_type"]] == [
        ("CLOSED", 2, 2),
        ("OPEN", 3, 1),
    ]


def test_rows_outside_the_denominator_are_in_no_table():
    tables = group_tables(GROUPS, rows(1.0, None, 0.5, None, None, decided=False))
    assert [(line["modality"], line["n"], line["value"]) for line in tables["modality"]] == [
        ("CT", 1, 0.5),
        ("MR", 1, 1.0),
    ]
    assert {line["right"] for line in tables["modality"]} == {None}


def test_right_is_reported_only_where_every_row_is_right_or_wrong():
    mixed = [{"value": 1.0, "correct": True}, {"value": 0.5}]
    (line,) = group_tables([{"organ": "lung"}] * 2, mixed)["organ"]
    assert (line["n"], line["right"], line["value"]) == (2, None, 0.75)


def test_one_row_or_image_has_a_value_without_an_interval():
    (line,) = group_tables([{"organ": "lung"}] * 2, rows(0.5, 0.6, decided=False), clusters=["a.png"] * 2)["organ"]
    assert (line["value"], line["low"], line["high"]) == (0.55, None, None)
    result = averages([{"organ": "lung"}], rows(0.5, decided=False))
    assert result["micro"] == {"value": 0.5, "low": None, "high": None, "level": 0.95, "draws": 10_000}


def test_rows_without_any_group_have_no_tables():
    assert group_tables([{}, {}], rows(1.0, 0.0)) == {}


def test_micro_is_over_rows_and_macro_over_groups():
    result = averages(GROUPS, rows(1.0, 1.0, 0.0, 1.0, 0.0))
    assert result["micro"]["value"] == 0.6
    assert {field: part["value"] for field, part in result["macro"].items()} == {
        "modality": pytest.approx((1 + 1 / 3 + 1) / 3),
        "answer_type": pytest.approx((1 + 1 / 3) / 2),
    }
    assert result["micro"].keys() == {"value", "low", "high", "level", "draws"}
    assert result["macro"]["modality"].keys() == {"value", "low", "high", "level", "draws"}
    assert 0 < result["micro"]["low"] < 0.6 < result["micro"]["high"] <= 1
    assert (result["micro"]["level"], result["micro"]["draws"]) == (0.95, 10_000)


def test_averages_leave_out_rows_outside_the_denominator():
    result = averages(GROUPS, rows(None, None, 0.5, None, 1.0))
    assert result["micro"]["value"] == 0.75
    assert result["macro"]["modality"]["value"] == 0.75
    assert averages(GROUPS, rows(*[None] * 5)) == {}
    assert averages([{}], rows(1.0))["macro"] == {}
