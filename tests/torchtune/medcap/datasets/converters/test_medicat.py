from helpers.downloads import Downloads, left_out, rows_of, said, write_textplus
from medcap.datasets.converters.medicat import FILE, MedICaT


def test_a_caption_with_its_references(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_textplus(downloads)
    (written,) = downloads.convert(MedICaT())
    (row,) = rows_of(written)
    assert said(row) == ["<image>", "From MedICaT. As Figure 1 shows. See Figure 1."]
    assert row["image"] == "hash_4-Figure1.png"


def test_references_may_be_absent_and_the_known_damaged_figure_is_left_out(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_textplus(downloads)
    figure = {"pdf_hash": "hash", "fig_uri": "4-Figure1.png", "s2_caption": "Words."}
    damaged = {"pdf_hash": "ffd83b6453f94f2a1ddb346e324f5bdbf228c1f3", "fig_uri": "4-Figure3-1.png"}
    downloads.lines(
        FILE, [figure, figure | {"s2orc_references": None}, figure | damaged, figure | {"s2_caption": None}]
    )
    (written,) = downloads.convert(MedICaT())
    assert [said(row)[1] for row in rows_of(written)] == ["Words.", "Words."]
    assert left_out(written) == {"a figure that is known to be damaged": 1, "there is no 's2_caption'": 1}


def test_a_reference_that_is_not_text_is_not_taken(tmp_path):
    from medcap.datasets.conversion.base import Folders
    from medcap.datasets.conversion.example import Tally

    downloads = Downloads(tmp_path)
    rows = [
        {"pdf_hash": "a", "fig_uri": f"{number}.png", "s2_caption": "A lung.", "s2orc_references": references}
        for number, references in enumerate([["Clear."], [None], [float("nan")], [3]])
    ]
    downloads.lines(FILE, rows)
    tally = Tally()
    found = list(MedICaT().examples(Folders(str(downloads.folder), tmp_path, keep_missing=True))(tally))
    assert [example.turns for _, example in found] == [[("", "A lung. Clear.")]]
    assert tally.skipped == {"'s2orc_references' is not a list of texts": 3}
