import re

from PIL import Image

from helpers.pages import ATTACK, check, section_html
from medcap.data.boxes.box import Box
from medcap.report.drawn_boxes import Rectangle, RowBoxes
from medcap.report.gallery import Gallery, Sample
from medcap.report.pictures import MOST_PICTURES

LIVER = Box((0.25, 0.2, 0.75, 0.6), "liver")
FOUND = Box((0.3, 0.24, 0.7, 0.6), "liver")


def gallery(boxes, *images, **fields):
    sample = Sample("words", ["words"], images, boxes=boxes, **fields)
    return section_html(Gallery("", [sample]))


def test_boxes_lie_in_pixels_of_the_image():
    # A letter is 14 CSS pixels high where the picture is 420 high and 300 pixels of it are.
    drawing = RowBoxes([LIVER], [FOUND], [0.72]).drawn(0, (200, 300))
    assert (drawing.size, drawing.label_height) == ((200, 300), 10.0)
    assert drawing.rectangles == [
        Rectangle("expected", 50.0, 60.0, 100.0, 120.0, "liver", 50.0, 56.5, "start"),
        Rectangle("given", 60.0, 72.0, 80.0, 108.0, "liver IoU 0.72", 60.0, 191.0, "start"),
    ]


def test_labels_stay_inside_of_the_picture():
    whole = Box((0.0, 0.0, 1.0, 1.0), "x" * 50)
    expected, given = (
        RowBoxes([whole], [Box((0.9, 0.5, 1.0, 1.0), "right lung")], [0.05]).drawn(0, (200, 300)).rectangles
    )
    assert (expected.label, expected.label_y) == ("x" * 31 + "…", 11.0)
    assert (given.label_x, given.label_y, given.anchor) == (200.0, 296.5, "end")


def test_the_picture_and_its_boxes_are_one_drawing():
    html = gallery(RowBoxes([LIVER], [FOUND], [0.72]), Image.new("L", (400, 200)), question="Where is it?")
    assert '<svg class="drawn" viewBox="0 0 400 200" role="img" aria-label="1 expected, 1 given">' in html
    assert re.search(
        r'<image href="data:image/jpeg;base64,[^"]+" width="400" height="200" preserveAspectRatio="none"/>', html
    )
    # Twice each: a dark edge below the line.
    assert html.count('x="100.0" y="40.0" width="200.0" height="80.0"/>') == 2
    assert html.count('x="120.0" y="48.0" width="160.0" height="72.0"/>') == 2
    assert [words.strip() for words in re.findall(r"<text[^>]*>([^<]*)</text>", html)] == ["liver", "liver IoU 0.72"]
    check(html)


def test_absent_objects_and_answers_without_a_box_are_told():
    picture = Image.new("L", (40, 20))
    html = gallery(RowBoxes([], [FOUND], [None]), picture)
    assert "none expected" in html and "1 given" in html and "IoU 0" not in html and html.count("<rect") == 6
    html = gallery(RowBoxes([], [], []), picture)
    assert 'aria-label="none expected, none given"' in html
    html = gallery(RowBoxes([LIVER], [], [], "the answer names no box"), picture)
    assert 'aria-label="1 expected, none given, the answer names no box"' in html


def test_names_of_many_boxes_stand_below_the_picture():
    boxes = RowBoxes([LIVER, Box((0.0, 0.0, 0.1, 0.1))], [FOUND] * 30, [0.5] * 30)
    expected, given = boxes.words
    assert expected == "2 expected: 1 liver, 2"
    assert given.startswith("30 given: 1 liver IoU 0.50, 2 liver") and given.endswith("20 liver IoU 0.50, …")
    assert [box.label for box in boxes.drawn(0, (100, 100)).rectangles[:4]] == ["1", "2", "1", "2"]


def test_a_box_lies_on_its_own_image_which_is_always_shown():
    pictures = [Image.new("L", (40, 20 + number)) for number in range(50)]
    number = 37
    assert number not in [round(index * 49 / (MOST_PICTURES - 1)) for index in range(MOST_PICTURES)]
    html = gallery(RowBoxes([Box((0.25, 0.0, 0.5, 1.0), image=number)], [], []), *pictures)
    assert f"50 images, {MOST_PICTURES} of them shown" in " ".join(html.split())
    drawings = re.findall(r'viewBox="0 0 40 (\d+)".*?</svg>', html, re.DOTALL)
    assert len(drawings) == MOST_PICTURES and str(20 + number) in drawings
    (drawn,) = re.findall(r'<rect class="line" x="10\.0" y="0\.0" width="10\.0" height="([\d.]+)"/>', html)
    assert drawn == "57.0"


def test_labels_never_become_markup():
    box = Box((0.1, 0.1, 0.5, 0.5), ATTACK[:30])
    checker = check(gallery(RowBoxes([box] * 3, [box] * 3, [0.5] * 3), Image.new("L", (40, 20))))
    assert "script" not in checker.tags and checker.text.count(ATTACK[:30]) == 6
