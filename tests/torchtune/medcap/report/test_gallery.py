import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from helpers.pages import section_html
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.views import View
from medcap.errors import UserError
from medcap.report.gallery import (
    MOST_GROUPS,
    Gallery,
    Sample,
    choose_samples,
    mark_differences,
)
from medcap.report.page_frame import Page
from medcap.report.pictures import MOST_PICTURES, thumbnail


def gallery(samples, reader=None):
    return section_html(Gallery("", samples, reader=reader))


def decoded(address):
    assert address.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_differing_words_are_marked_on_both_sides():
    reference, generated = mark_differences("Mass in the left lung.", "A mass in the right lung")
    assert reference == "Mass in the <del>left</del> lung."
    assert generated == "<ins>A</ins> mass in the <ins>right</ins> lung"


def test_marked_words_are_escaped_and_white_space_is_kept():
    assert mark_differences("a < b", "a\n<i>x</i> &") == (
        "a <del>&lt; b</del>",
        "a\n<ins>&lt;i&gt;x&lt;/i&gt; &amp;</ins>",
    )
    assert mark_differences("", "") == ("", "")
    assert mark_differences("a", "") == ("<del>a</del>", "")


def test_thumbnails_are_small_and_keep_their_shape(tmp_path):
    Image.new("L", (1000, 500), 90).save(tmp_path / "wide.png")
    assert decoded(thumbnail(tmp_path / "wide.png").address).size == (256, 128)
    assert decoded(thumbnail(Image.new("RGB", (30, 60))).address).size == (30, 60)


def test_a_16_bit_picture_keeps_its_greys(tmp_path):
    ramp = np.tile(np.linspace(0, 4000, 64, dtype=np.uint16), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    values = np.asarray(decoded(thumbnail(tmp_path / "deep.png").address).convert("L"), dtype=int)
    assert values[:, 0].mean() < 10
    assert values[:, -1].mean() > 245


def test_a_damaged_or_forbidden_picture_is_a_placeholder(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    Image.new("L", (4, 4)).save(tmp_path / "outside.png")
    reader = ImageReader([tmp_path / "inside"])
    samples = [Sample("a", ["a"], images=[path]) for path in ("bad.png", "none.png", tmp_path / "outside.png")]
    html = gallery([*samples, Sample("a", ["a"])], reader)
    assert html.count("image cannot be shown") == 3
    assert html.count("no image") == 1
    assert "<img" not in html
    with pytest.raises(UserError):
        thumbnail(tmp_path / "inside" / "bad.png")


def test_several_images_of_a_row_stand_side_by_side_and_of_many_slices_some(tmp_path):
    paths = [tmp_path / f"{number:02}.png" for number in range(31)]
    for number, path in enumerate(paths):
        Image.new("L", (8, 8), number * 8).save(path)
    html = gallery([Sample("a", ["a"], images=[*paths[:2], tmp_path / "none.png"]), Sample("a", ["a"], images=paths)])
    assert html.count("<img") == 2 + MOST_PICTURES
    assert html.count("image cannot be shown") == 1
    assert "3 images</span></p>" in html
    assert "31 images, 16 of them shown</span></p>" in html
    levels = [round(np.asarray(decoded(address)).mean() / 8) for address in re.findall(r'src="([^"]+)"', html)[2:]]
    assert levels == list(range(0, 31, 2))


def test_the_slices_of_a_volume_that_were_looked_at_stand_side_by_side(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    volume = np.zeros((16, 16, 4), dtype=np.int16) + np.arange(4, dtype=np.int16) * 80
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "ct.nii.gz")
    image = ImageRef(str(tmp_path / "ct.nii.gz"), View(window=(120.0, 240.0), frames="all"))
    html = gallery([Sample("a", ["a"], images=[image])])
    levels = [np.asarray(decoded(address)).mean().round() for address in re.findall(r'src="([^"]+)"', html)]
    assert levels == [0, 85, 170, 255]
    assert "4 images</span></p>" in html


def test_verdicts_are_words_and_signs_and_can_be_filtered():
    html = gallery([Sample("a", ["a"], correct=True), Sample("", ["b"], correct=False, problem="lost")])
    assert "✓ right" in html
    assert "✗ wrong" in html
    assert "no answer: lost" in html
    assert html.count('type="radio" name="g0v"') == 3
    assert "radio" not in gallery([Sample("a", ["a"])])


def test_rows_that_the_rule_does_not_decide_are_neither_wrong_nor_right():
    samples = [Sample("a", ["a"], correct=True, group="CT"), Sample("a", ["b"], correct=False, group="CT")]
    samples += [Sample("a", ["a"], group="MR")] * 3
    html = gallery(samples)
    assert re.findall(r">(All 5|[✗✓–] \w[\w ]+ \d)<", html) == ["All 5", "✗ Wrong 1", "✓ Right 1", "– Not scored 3"]
    assert re.findall(r'article class="sample (\w+) ', html) == ["yes", "no", "open", "open", "open"]
    assert re.findall(r'class="empty (none-\w+-\d+)"', html) == ["none-no-2", "none-yes-2", "none-open-1"]
    chosen, rule = choose_samples(samples * 10, 9)
    assert [sum(sample.correct is verdict for sample in chosen) for verdict in (False, True, None)] == [3, 3, 3]
    assert rule == (
        "9 of 50 rows are shown: 3 of the 10 wrong, 3 of the 10 right and 3 of the 30 not scored, shared out among the"
        " modalities, evenly spaced over the file."
    )


def test_half_wrong_half_right_are_shown_and_the_rule_is_stated():
    samples = [Sample("x", ["y"], correct=index % 10 != 0, name=str(index)) for index in range(1000)]
    chosen, rule = choose_samples(samples, 60)
    assert len(chosen) == 60
    assert sum(sample.correct for sample in chosen) == 30
    assert (chosen[0].name, chosen[-1].name) == ("0", "999")
    assert (
        rule
        == "60 of 1000 rows are shown: 30 of the 100 wrong and 30 of the 900 right ones, evenly spaced over the file."
    )


@pytest.mark.parametrize(("wrong", "expected"), [(0, (0, 10)), (3, (3, 7)), (97, (7, 3)), (100, (10, 0))])
def test_the_other_half_fills_up_when_one_is_short(wrong, expected):
    samples = [Sample("x", ["y"], correct=index >= wrong) for index in range(100)]
    chosen, _ = choose_samples(samples, 10)
    assert (sum(not sample.correct for sample in chosen), sum(sample.correct for sample in chosen)) == expected


def test_scored_rows_run_from_the_lowest_to_the_highest():
    samples = [Sample("x", ["y"], score=("CIDEr", float((index * 37) % 101))) for index in range(101)]
    chosen, rule = choose_samples(samples, 5)
    assert [sample.score[1] for sample in chosen] == [0.0, 25.0, 50.0, 75.0, 100.0]
    assert "from the lowest CIDEr to the highest" in rule
    assert choose_samples(samples[:5], 5)[0] == samples[:5]


def test_rows_are_shared_out_among_the_groups():
    # 10 wrong in CT, 2 wrong in MR, the rest right.
    samples = [Sample("x", ["y"], correct=index >= 10, group="CT", name=f"ct{index}") for index in range(500)]
    samples += [Sample("x", ["y"], correct=index >= 2, group="MR", name=f"mr{index}") for index in range(30)]
    chosen, rule = choose_samples(samples, 20)
    counts = {
        (group, correct): sum(sample.group == group and sample.correct is correct for sample in chosen)
        for group in ("CT", "MR")
        for correct in (False, True)
    }
    assert counts == {("CT", False): 6, ("MR", False): 2, ("CT", True): 6, ("MR", True): 6}
    assert rule == (
        "20 of 530 rows are shown: 8 of the 12 wrong and 12 of the 518 right ones, shared out among the modalities,"
        " evenly spaced over the file."
    )


def test_groups_can_be_filtered_and_an_empty_choice_says_so():
    samples = [Sample("a", ["a"], correct=True, group="MR"), Sample("a", ["b"], correct=False, group="CT <x>")]
    html = gallery(samples)
    assert html.count('type="radio" name="g0g"') == 3
    assert "All modalities" in html
    assert "CT &lt;x&gt;" in html
    assert '<article class="sample yes group-2">' in html
    assert '<article class="sample no group-1">' in html
    assert re.findall(r'class="empty (none-\w+-\d+)"', html) == ["none-no-2", "none-yes-1"]
    assert 'name="g0g"' not in gallery([Sample("a", ["a"], correct=True, group="MR")] * 2)


def test_the_style_sheet_has_a_rule_for_every_group_that_a_gallery_makes():
    verdicts = (True, False, None)
    samples = [Sample("a", ["a"], correct=verdicts[index % 3], group=f"{index:02}") for index in range(MOST_GROUPS + 3)]
    html = gallery(samples)
    assert {"no", "yes", "open"} <= set(re.findall(r"none-([a-z]+)-", html))
    assert "4 others" in html
    made = set(re.findall(r"group-\d+", html)) | set(re.findall(r"none-\w+-\d+", html))
    assert f"group-{MOST_GROUPS}" in made
    page = Page("", "", [Gallery("", samples)]).html()
    style = page[page.index("<style>") : page.index("</style>")]
    assert all(re.search(rf"\.{name}\b", style) for name in made)
    assert all(
        f".show-{verdict}:checked ~ .samples .sample:not(.{verdict})" in style for verdict in ("no", "yes", "open")
    )


def options_of(html):
    return re.findall(r'<li class="([^"]*)"><span class="sign">(.?)</span>([^<]*?) ?<', html)


def test_options_are_listed_with_the_right_and_the_chosen_one_marked():
    options = ["Liver", "Kidney", "Aorta"]
    html = gallery([Sample("B) kidney, I think", ["liver"], options=options, chosen="Kidney", correct=False)])
    assert options_of(html) == [("right", "✓", "Liver"), ("chosen", "✗", "Kidney"), ("", "", "Aorta")]
    assert "B) kidney, I think" in html
    assert "Reference" not in html
    html = gallery([Sample("Aorta.", ["Aorta"], options=options, correct=True)])
    assert options_of(html)[2] == ("right chosen", "✓", "Aorta")
    assert "Generated" not in html
    html = gallery([Sample("Spleen", ["Liver"], options=options, correct=False)])
    assert "none of the options" in html
    assert "no answer: lost" in gallery([Sample("", ["Liver"], options=options, problem="lost")])
