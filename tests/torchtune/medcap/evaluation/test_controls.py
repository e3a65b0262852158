import pytest
from torchtune.data import Message

from medcap.data.images.reference import ImageRef
from medcap.data.images.views import View
from medcap.errors import UserError
from medcap.evaluation.controls import CONTROLS, no_image, shuffled_images
from medcap.scoring.question import Question, message_text


def row(name, *images, problem=None):
    content = [{"type": "image", "content": image} for image in images] + [{"type": "text", "content": "\nWhat?"}]
    return Question(name, [Message(role="user", content=content)], ("a",), problem=problem)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [2, 3, 7])
def test_no_row_keeps_its_image_and_every_image_is_used(seed, count):
    rows = [row(str(index), f"{index % count}.png") for index in range(3 * count)]
    changed = shuffled_images(rows, seed)
    before, after = [r.images[0] for r in rows], [r.images[0] for r in changed]
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert sorted(before) == sorted(after)
    assert len(set(zip(before, after, strict=True))) == count  # rows that share an image still share one
    assert [r.image for r in changed] == after


def test_shuffling_depends_on_the_seed_alone_and_leaves_the_rows_untouched():
    rows = [row(str(index), f"{index}.png") for index in range(8)]
    images = [[r.images for r in shuffled_images(rows, seed)] for seed in (0, 0, 1)]
    assert images[0] == images[1] != images[2]
    assert [r.images for r in rows] == [[f"{index}.png"] for index in range(8)]


def test_rows_without_a_usable_image_stay_as_they_are():
    rows = [row("0", "a.png"), row("1", "b.png"), row("2"), row("3", "lost.png", problem="lost.png does not exist")]
    changed = shuffled_images(rows, 0)
    assert [r.images for r in changed] == [["b.png"], ["a.png"], [], ["lost.png"]]
    assert changed[3].problem == "lost.png does not exist"


@pytest.mark.parametrize("seed", range(5))
def test_several_images_are_exchanged_together_and_none_of_a_questions_own_is_left(seed):
    pairs = [("a", "b"), ("b", "a"), ("c", "d"), ("e", "f"), ("b", "c"), ("a", "b")]
    changed = [tuple(r.images) for r in shuffled_images([row(str(i), *pair) for i, pair in enumerate(pairs)], seed)]
    assert all(not set(old) & set(new) for old, new in zip(pairs, changed, strict=True))
    assert set(changed) <= set(pairs)  # the slices of a volume stay those of one volume
    assert changed[0] == changed[5]


def test_images_without_others_of_their_number_get_any_but_their_own():
    first, second = shuffled_images([row("0", "a.png", "b.png"), row("1", "c.png")], 3)
    assert first.images == ["c.png", "c.png"]
    assert second.images[0] in ("a.png", "b.png")
    with pytest.raises(UserError, match="a row has all images of the benchmark"):
        shuffled_images([row("0", "a.png", "b.png"), row("1", "a.png")])


def test_two_views_of_one_image_are_two_images():
    first, last = (ImageRef("a.nii", View(frames=number)) for number in (0, 9))
    changed = shuffled_images([row("0", first), row("1", last)])
    assert [r.image for r in changed] == [last, first]


def test_one_image_cannot_be_shuffled():
    with pytest.raises(UserError, match="1 distinct image"):
        shuffled_images([row("0", "a.png"), row("1", "a.png")], 0)


def test_without_image_the_words_stay():
    changed = no_image([row("0", "a.png"), row("1")])
    assert [r.images for r in changed] == [[], []]
    assert [r.image for r in changed] == [None, None]
    assert changed[0].messages[0].content == [{"type": "text", "content": "What?"}]
    assert message_text(changed[1].messages[0]) == "What?"


def test_controls_go_by_the_names_that_results_carry():
    assert {"shuffled_image": shuffled_images, "no_image": no_image} == CONTROLS
