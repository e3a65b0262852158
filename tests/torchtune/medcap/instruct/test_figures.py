import json

import pytest

from medcap.datasets.published.reading import Tally
from medcap.errors import UserError
from medcap.instruct.figures import Columns, read_figures

FIVE = {"chest_xray": False, "mri": True, "histology": False, "gross": False, "ct_scan": False}


def read(path, **columns):
    tally = Tally()
    return read_figures(path, Columns(**columns), tally), tally


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def figure(number, caption="A scan.", **fields):
    return {"pair_id": f"P{number}", "fig_caption": caption, **fields}


def test_llava_meds_layout_is_read_in_turns_over_its_domains(tmp_path):
    content = {
        "mri": [
            figure(1, fig_label="Fig. 1", in_text_mention=["One.", {"tokens": "Two  words."}, 3], domain=FIVE),
            figure(2),
            figure(3),
        ],
        "ct_scan": [figure(4), figure(5)],
        "gross": [figure(6)],
    }
    for text in (json.dumps(content), json.dumps(content, indent=2)):
        figures, tally = read(written(tmp_path / "fig_captions.json", text))
        assert [figure.id for figure in figures] == ["P1", "P4", "P6", "P2", "P5", "P3"]
        assert (tally.read, dict(tally.skipped)) == (6, {})
        first = figures[0]
        assert (first.image, first.label, first.mentions) == ("P1.jpg", "Fig. 1", ("One.", "Two words."))
        assert first.fields == {"domain": FIVE}
        assert figures[1].fields == {"domain": "ct_scan"}


def test_any_table_is_read_by_the_names_of_its_columns(tmp_path):
    table = written(
        tmp_path / "a.csv", 'name,words,kind,said\na.png,"One, two",CT,"[""Seen in A.""]"\nb.png,B,MR,Seen.\n'
    )
    figures, _ = read(table, image="name", caption="words", domain="kind", mentions="said")
    assert [(each.id, each.image, each.caption, each.domain, each.mentions) for each in figures] == [
        ("a.png", "a.png", "One, two", "CT", ("Seen in A.",)),
        ("b.png", "b.png", "B", "MR", ("Seen.",)),
    ]
    lines = written(tmp_path / "a.jsonl", '{"id": 7, "image": "x/a.png", "caption": "A cyst."}\n')
    (only,), _ = read(lines)
    assert (only.id, only.image, only.domain, only.fields) == ("7", "x/a.png", "", {})


def test_damaged_and_incomplete_figures_are_counted_by_reason(tmp_path):
    rows = [
        json.dumps(figure(1)),
        '{"pair_id": "P2", "fig_cap',
        json.dumps({"pair_id": "P3"}),
        json.dumps({"fig_caption": "No id."}),
        json.dumps(figure(1, "Again.")),
        json.dumps(figure("../../x")),
        json.dumps(figure(4, "")),
        "[]",
    ]
    figures, tally = read(written(tmp_path / "a.jsonl", "\n".join(rows) + "\n"))
    assert [each.caption for each in figures] == ["A scan."]
    assert tally.read == 8
    assert dict(tally.skipped) == {
        "not valid JSON": 1,
        "there is no 'fig_caption'": 1,
        "there is no 'pair_id'": 1,
        "another figure before it has the same id": 1,
        "the image's name leads out of its folder": 1,
        "'fig_caption' is empty": 1,
        "the row is not an object": 1,
    }


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("a.jsonl", '{"id": 1, "title": "A"}\n', {}, r"not one figure can be used, 1: there is no 'fig_caption'"),
        ("a.jsonl", '{"id": 1, "title": "A"}\n', {}, r"by --caption-column.*\(the first row has: id, title\)"),
        ("a.csv", "id,caption\n", {}, "not one figure can be used"),
        ("a.csv", "id,caption\n1,A\n", {"domain": "kind"}, "there is no 'kind'"),
        ("gone.json", None, {}, r"gone\.json does not exist"),
        ("a.json", "", {}, "is empty"),
    ],
)
def test_a_file_without_figures_is_one_line(tmp_path, name, content, columns, message):
    if content is not None:
        written(tmp_path / name, content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name, **columns)
