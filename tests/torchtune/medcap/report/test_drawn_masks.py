import re

import numpy as np
from PIL import Image

from helpers.mask_rows import mask_of, region_of
from helpers.pages import ATTACK, check, section_html
from medcap.data.regions.region import BoxShape, Region
from medcap.report.drawn_masks import MOST_LISTED, ObjectMasks, RowMasks
from medcap.report.gallery import Gallery, Sample

WANTED = region_of(mask_of("........", ".##.....", ".##.....", "........"), "liver")
GIVEN = region_of(mask_of("........", ".###....", "........", "........"))
FAR = region_of(mask_of("......##", "........", "........", "........"), "spleen")


def gallery(*rows, **fields):
    samples = [Sample("words", ["words"], [Image.new("L", (80, 40))], masks=row, **fields) for row in rows]
    return section_html(Gallery("", samples))


def test_masks_lie_in_pixels_of_the_image_and_the_reference_over_the_answer():
    drawing = RowMasks([ObjectMasks("liver", "Dice 0.57", WANTED, GIVEN)]).drawn(0, (80, 80))
    assert [(shape.kind, shape.path, shape.scale) for shape in drawing.shapes] == [
        ("given", "M1 1h3v1h-3z", "10 20"),
        ("expected", "M1 1h2v2h-2z", "10 20"),
    ]
    # One object needs no name over the picture.
    assert drawing.labels == [] and drawing.shapes[1].edges == (0.125, 0.25, 0.375, 0.75)


def test_a_region_that_is_no_mask_is_drawn_on_the_original_image():
    row = RowMasks([ObjectMasks("", "", Region(BoxShape((2, 1, 6, 3))))], image_size=(8, 4))
    assert row.drawn(0, (16, 8)).shapes[0].path == "M2 1h4v2h-4z"


def test_several_objects_have_names_or_numbers_where_names_would_lie_over_each_other():
    liver, spleen = ObjectMasks("liver", "", WANTED), ObjectMasks("spleen", "", None, FAR)
    assert [label.label for label in RowMasks([liver, spleen]).drawn(0, (800, 400)).labels] == ["liver", "spleen"]
    labels = RowMasks([liver, ObjectMasks("portal vein", "", WANTED)]).drawn(0, (800, 400)).labels
    assert [label.label for label in labels] == ["1", "2"]
    assert [label.label for label in RowMasks([spleen] * 5).drawn(0, (800, 400)).labels] == list("12345")


def test_what_is_absent_is_named_in_the_list():
    row = RowMasks([ObjectMasks("liver", "Dice 0.57, IoU 0.40", WANTED, GIVEN), ObjectMasks("cyst", "absent")])
    assert row.words == "1 liver: Dice 0.57, IoU 0.40; 2 cyst: absent" and row.images == [0]
    assert RowMasks([ObjectMasks("", "no mask in the answer", WANTED)]).words == "no mask in the answer"
    many = RowMasks([ObjectMasks("rib", "absent")] * (MOST_LISTED + 2)).listed
    assert len(many) == MOST_LISTED + 1 and many[-1] == ("", "and 2 more")


def test_the_picture_and_its_masks_are_one_drawing_that_can_be_switched():
    html = gallery(
        RowMasks([ObjectMasks("liver", "Dice 0.57, IoU 0.40", WANTED, GIVEN)], iou=0.4), score=("Dice", 0.57)
    )
    assert 'viewBox="0 0 80 40" role="img" aria-label="liver: Dice 0.57, IoU 0.40"' in html
    # Twice each: a dark edge below the line.
    assert html.count('d="M1 1h2v2h-2z"') == html.count('d="M1 1h3v1h-3z"') == 2
    assert html.count('<g class="mask expected" transform="scale(10 10)">') == 1
    assert ">Dice 0.57<" in html and ">IoU 0.40<" in html
    assert len(re.findall(r'<input type="checkbox" [^>]*class="with-(?:expected|given)" checked>', html)) == 2
    check(html)
    assert "mask" not in gallery(None)


def test_a_mask_lies_on_its_own_image():
    other = Region(WANTED.shape, image=1)
    sample = Sample(
        "", [""], [Image.new("L", (80, 40)), Image.new("L", (8, 4))], masks=RowMasks([ObjectMasks("", "", other)])
    )
    first, second = re.findall(r'<svg class="drawn".*?</svg>', section_html(Gallery("", [sample])), re.DOTALL)
    assert "<path" not in first and "<path" in second


def test_the_worst_rows_stand_first():
    samples = [
        Sample("", [""], name=name, score=score, correct=right)
        for name, score, right in (
            ("half", ("Dice", 0.5), True),
            ("best", ("Dice", 0.9), True),
            ("worst", ("Dice", 0.1), False),
            ("bad", None, False),
        )
    ]
    html = section_html(Gallery("", samples, worst_first=True))
    assert re.findall(r'facts-line">(\w+)<', html) == ["bad", "worst", "half", "best"]
    assert "All 4 rows are shown, the lowest Dice first." in html
    html = section_html(Gallery("", samples, worst_first=True, limit=2))
    assert "They stand with the lowest Dice first." in html


def test_names_never_become_markup():
    checker = check(gallery(RowMasks([ObjectMasks(ATTACK, ATTACK, WANTED), ObjectMasks(ATTACK, "", None, GIVEN)])))
    assert "script" not in checker.tags


def test_a_large_mask_is_scaled_to_the_image_it_is_drawn_on():
    mask = np.zeros((600, 1200), bool)
    mask[:300] = True
    row = RowMasks([ObjectMasks("", "", region_of(mask))])
    (shape,) = row.drawn(0, (1200, 600)).shapes
    assert (shape.path, shape.scale) == ("M0 0h400v100h-400z", "3 3")
