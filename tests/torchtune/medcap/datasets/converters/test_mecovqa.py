import numpy as np
import pytest
from PIL import Image

from helpers.downloads import Downloads, left_out, rows_of, said
from helpers.mask_sets import CASE, LIVER, PART, SPLEEN, write_mecovqa
from medcap.data.regions.run_length import decode
from medcap.datasets.converters.mecovqa import MeCoVqa
from medcap.errors import UserError


@pytest.fixture
def downloads(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    write_mecovqa(downloads.folder, "train")
    return downloads


def test_rows_hold_merged_masks_and_regions(downloads, tmp_path):
    (written,) = downloads.convert(MeCoVqa(merged_masks=str(tmp_path / "masks_merged")))
    rows = rows_of(written)
    assert [said(row) for row in rows] == [
        ["<image>\n\nIs it a CT?", "Yes"],
        ["<image>\n\nWhat is shown?", "A spine."],
        ["<image>\n\nWhat is <region></region>?", "The spleen."],
        ["<image>\n\nSegment the liver.", "<SEG>"],
        ["<image>\n\nSegment the spleen.", "It is <SEG>."],
    ]
    assert (decode(rows[2]["regions"][0]["mask"]) == SPLEEN).all()
    assert (decode(rows[3]["masks"][0]["mask"]) == (LIVER | PART)).all()
    assert (rows[3]["task"], rows[3]["modality"], rows[3]["patient"]) == ("grounding", "ct", "CTSpine1K--Case_1")
    picture = np.asarray(Image.open(tmp_path / f"masks_merged/{CASE}--0005_merged.png"))
    assert (picture == 255 * (LIVER | PART)).all()
    assert left_out(written) == {"a mask cannot be read": 1}


def test_parts_can_be_chosen(downloads):
    (written,) = downloads.convert(MeCoVqa(parts=("region",)))
    assert [row["task"] for row in rows_of(written)] == ["region"]


def test_what_lacks_is_named(tmp_path):
    with pytest.raises(UserError, match=r"mecovqa: .*SA-Med2D-20M"):
        Downloads(tmp_path / "datasets").convert(MeCoVqa())
