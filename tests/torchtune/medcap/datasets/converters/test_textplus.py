import shutil

import pytest

from helpers.downloads import Downloads, rows_of, said, write_pmcoa, write_textplus
from medcap.datasets.converters.textplus import TextPlus, TextPlusPmcOa, TextPlusPmcOaPatients
from medcap.errors import UserError

TEXT = ["From PMC-VQA.", "From ROCOv2, a scan.", "From LLaVA-Med.", "From PubMedVision.", "From a later record."]
FIGURES = ["From MedICaT. As Figure 1 shows. See Figure 1.", "lesion (1) seen", "Normal chest radiograph."]
CASES = ["A man, 60.", 'A woman, "45".\nShe left.'] * 2


@pytest.fixture
def downloads(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_textplus(downloads)
    write_pmcoa(downloads)
    return downloads


@pytest.mark.parametrize(
    ("converter", "name", "captions"),
    [
        (TextPlus(), "textplus_train.json", TEXT),
        (TextPlusPmcOa(), "textplus_pmcoa_train.json", [*TEXT, *FIGURES]),
        (TextPlusPmcOaPatients(), "textplus_pmcoa_patients_train.json", [*TEXT, *FIGURES, *CASES]),
    ],
)
def test_the_mixtures_in_medcap_s_order(downloads, converter, name, captions):
    (written,) = downloads.convert(converter)
    assert written.path.name == name
    assert [said(row)[1] for row in rows_of(written)] == captions


def test_medicat_may_be_absent_and_no_other_part(downloads):
    shutil.rmtree(downloads.folder / "PMC-VQA-text/release")
    (written,) = downloads.convert(TextPlusPmcOa())
    assert [said(row)[1] for row in rows_of(written)] == [*TEXT, *FIGURES[1:]]
    shutil.rmtree(downloads.folder / "PMC-VQA-text/images_med60k")
    with pytest.raises(UserError, match=r"^llava-med-60k-im-text: .*images_med60k/images does not exist: download"):
        downloads.convert(TextPlus())
    assert not (downloads.folder.parent / "out/textplus_train.json").exists()
