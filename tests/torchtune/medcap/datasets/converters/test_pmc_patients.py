from helpers.downloads import Downloads, left_out, rows_of, said, write_textplus
from medcap.datasets.conversion.instructions import CASE_REPORT
from medcap.datasets.converters.pmc_patients import PmcPatients


def test_a_row_for_each_image_and_each_patient_of_its_article(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_textplus(downloads)
    (written,) = downloads.convert(PmcPatients())
    assert [(row["image"], said(row)[1]) for row in rows_of(written)] == [
        ("PMC7_1.jpg", "A man, 60."),
        ("PMC7_1.jpg", 'A woman, "45".\nShe left.'),
        ("PMC7_2.jpg", "A man, 60."),
        ("PMC7_2.jpg", 'A woman, "45".\nShe left.'),
    ]
    assert left_out(written) == {"an image of an article that has no patient": 1}
    assert written.tally.first["an image of an article that has no patient"].endswith("/PMC9_1.jpg")


def test_an_instruction_asks_for_the_case(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_textplus(downloads)
    (written,) = downloads.convert(PmcPatients(), instruction="random")
    assert {said(row)[0].removeprefix("<image>\n\n") for row in rows_of(written)} <= set(CASE_REPORT)


def test_a_case_may_be_longer_than_a_csv_field_usually_is(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_textplus(downloads)
    downloads.table("PMC-VQA-text/PMC-Patients.csv", [{"file_path": "PMC9.xml", "patient": "a" * 200_000}])
    (written,) = downloads.convert(PmcPatients())
    assert [len(said(row)[1]) for row in rows_of(written)] == [200_000]
