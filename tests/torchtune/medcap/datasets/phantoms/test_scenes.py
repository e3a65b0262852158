"""Scenes: several lesions in a picture, each with its own box and mask."""

from collections import Counter

import numpy as np
import pytest

from medcap.datasets.phantoms.records import KINDS, MODALITIES
from medcap.datasets.phantoms.scenes import FIELD, draw_scene, join_words, make_scene
from medcap.errors import UserError


def test_a_scene_depends_on_its_seed_and_index_alone():
    scene = make_scene(0, 0)
    assert scene == make_scene(0, 0)
    assert scene.modality == "korvogram" and scene.absent == ("nodule", "cross")
    assert scene.caption == (
        "A korvogram showing a medium dark ring with a spiky outline and a small bright cluster with a spiky outline."
    )
    assert scene.lesion("ring").centre == pytest.approx((0.7163091, 0.5893350), abs=1e-6)
    assert len({make_scene(seed, index).lesions[0].centre for seed in range(3) for index in range(30)}) == 90


def test_the_boxes_of_a_scene_are_those_of_its_masks():
    drawn = draw_scene(make_scene(0, 0), (64, 64))
    assert drawn.pixels("ring") == [37, 28, 57, 47]
    assert drawn.box("ring").edges == (37 / 64, 28 / 64, 57 / 64, 47 / 64) and drawn.box("ring").label == "ring"
    x1, y1, x2, y2 = drawn.pixels("cluster")
    mask = drawn.masks["cluster"]
    assert mask[y1:y2, x1:x2].sum() == mask.sum()
    assert all(edge.any() for edge in (mask[y1], mask[y2 - 1], mask[:, x1], mask[:, x2 - 1]))


@pytest.mark.parametrize("count", [2, 3])
def test_lesions_are_of_different_kinds_inside_the_field_and_apart(count):
    for index in range(25):
        drawn = draw_scene(make_scene(4, index, (count,)), (64, 64))
        assert len(drawn.masks) == count and len(drawn.scene.absent) == len(KINDS) - count
        assert np.stack(list(drawn.masks.values())).sum(axis=0).max() == 1
        for mask in drawn.masks.values():
            rows, columns = np.nonzero(mask)
            assert np.hypot(rows / 64 - 0.5, columns / 64 - 0.5).max() < FIELD + 0.02


@pytest.mark.slow
def test_kinds_sizes_and_numbers_of_lesions_are_even():
    counts = Counter(len(make_scene(1, index, (1, 2)).lesions) for index in range(100))
    assert 35 < counts[1] < 65 and counts[1] + counts[2] == 100
    scenes = [make_scene(1, index) for index in range(150)]
    lesions = [lesion for scene in scenes for lesion in scene.lesions]
    for name, least in (("kind", 0.2), ("size", 0.27), ("brightness", 0.4), ("outline", 0.4)):
        shares = Counter(getattr(lesion, name) for lesion in lesions)
        assert min(shares.values()) > least * len(lesions), name
    assert {scene.modality for scene in scenes} == set(MODALITIES)


@pytest.mark.parametrize("brightness", ["bright", "dark"])
def test_every_lesion_stands_out_from_its_surroundings(brightness):
    for index in range(24):
        drawn = draw_scene(make_scene(5, index), (64, 64))
        everything = np.stack(list(drawn.masks.values())).any(axis=0)
        for lesion in drawn.scene.lesions:
            if lesion.brightness != brightness:
                continue
            x1, y1, x2, y2 = drawn.pixels(lesion.kind)
            around = np.zeros_like(everything)
            around[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True
            difference = drawn.image[drawn.masks[lesion.kind]].mean() - drawn.image[around & ~everything].mean()
            assert difference > 50 if brightness == "bright" else difference < -35, (index, lesion.kind)


def test_a_wide_image_shows_the_same_scene_with_lesions_of_the_same_form():
    scene = make_scene(0, 0)
    square, wide = draw_scene(scene, (64, 64)), draw_scene(scene, (128, 64))
    assert wide.image.shape == (64, 128, 3) and wide.masks["ring"].shape == (64, 128)
    left, top, right, bottom = square.pixels("ring")
    x1, y1, x2, y2 = wide.pixels("ring")
    # The tip of a spike is thinner than a pixel, and may fall between two.
    assert abs(y1 - top) <= 1 and abs(y2 - bottom) <= 1 and abs((x2 - x1) - (right - left)) <= 2
    assert (x1 + x2) / 2 / 128 == pytest.approx((left + right) / 2 / 64, abs=0.02)


@pytest.mark.parametrize("lesions", [(), (0,), (4,), (2, 9)])
def test_a_number_of_lesions_that_leaves_no_kind_absent_is_refused(lesions):
    with pytest.raises(UserError, match=r"^lesions: a scene has 1 to 3 lesions of 4 kinds"):
        make_scene(0, 0, lesions)


def test_words_are_joined_as_in_a_sentence():
    assert [join_words(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
