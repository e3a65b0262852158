import pytest

from medcap.scoring.replies.reply_text import bare, clean, loose


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  **B** \n\n  the   lung ", "B\nthe lung"),
        ("Ｂ．　Ｌｕｎｇ，２", "B. Lung,2"),
        ("「B」", "(B)"),
        ("B。", "B."),
        ("Ⓑ 🅱️ 𝐁 ⒝", "B B B (b)"),
        ("答案是B", "答案是 B"),
        ("B是正确的", "B 是正确的"),
        ("B超", "B超"),
        ("答案是Lung吧", "答案是 Lung 吧"),
        ("X‑ray", "X-ray"),
        ("Grade Ⅱ", "Grade II"),
        ("ﬁbrosis", "fibrosis"),
        ("H₂O, 3 cm²", "H2O, 3 cm2"),
        ("B\u200b\ufeff", "B"),
        ("e\u0301", "é"),
        ("İ", "I"),
        ("a\0b", "a b"),
        # what NFKC would turn into something else
        ("10²", "10²"),
        ("2½", "2½"),
        ("№ 5", "№ 5"),
        ("37℃", "37℃"),
        ("①", "①"),
    ],
)
def test_one_spelling(text, cleaned):
    assert clean(text) == cleaned
    assert len(clean(text).lower()) == len(clean(text))


@pytest.mark.parametrize(
    ("text", "edges_off"), [("“Lung.”", "lung"), (".5", ".5"), ("...", ""), (",5 cm", ",5 cm"), (": B", "b")]
)
def test_punctuation_at_the_edges_goes_but_a_decimal_point_stays(text, edges_off):
    assert bare(text) == edges_off


@pytest.mark.parametrize(
    "names",
    [
        ("X-ray", "xray", "x ray", "The X-rays.", "It's an X-ray"),
        ("Lung", "Lungs", "the lungs", "It is the lung."),
        ("Metastasis", "metastases"),
        ("Biopsy", "biopsies"),
        ("Mass", "masses"),
        ("Vertebra", "vertebrae"),
        ("Non-small cell", "non small cell"),
    ],
)
def test_spellings_of_one_name(names):
    assert len({loose(clean(name)) for name in names}) == 1


@pytest.mark.parametrize(
    ("name", "other"), [("2-3", "23"), ("-2", "2"), ("MRI", "MR"), ("left lung", "right lung"), ("T1", "T2")]
)
def test_other_names_stay_apart(name, other):
    assert loose(clean(name)) != loose(clean(other))
