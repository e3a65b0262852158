import pytest

from medcap.datasets.leakage import search as leakage
from medcap.datasets.leakage.image_hashes import HashedImage
from medcap.datasets.leakage.image_sources import ImageFile
from medcap.datasets.leakage.search import MOST_KEPT, MOST_LISTED, ImageSet, Leak, find_leaks

BASE = 0x0123_4567_89AB_CDEF


def image(name, coarse=0, fine=0, file=None, pixels=None, flat=False):
    """A made-up hash that differs from the base in the given numbers of bits."""
    return HashedImage(
        name,
        BASE ^ ((1 << coarse) - 1),
        ((1 << fine) - 1).to_bytes(32, "little"),
        (file or name).encode(),
        (pixels or name).encode(),
        flat,
    )


def test_pairs_within_both_distances_are_leaks_and_no_others():
    test = [image("t")]
    train = [image("near", 8, 48), image("coarse", 9, 0), image("fine", 8, 49), image("exact")]
    found = find_leaks(train, test)
    assert found.leaks == [Leak(2, 0, 0, "t", "exact"), Leak(2, 8, 48, "t", "near")]
    assert (found.num_test, found.num_pairs, found.num_coarse) == (1, 2, 1)
    assert [leak.train for leak in find_leaks(train, test, distance=0).leaks] == ["exact"]
    assert len(find_leaks(train, test, distance=9).leaks) == 4


def test_same_files_and_same_pixels_are_distinguished_from_look_alikes():
    test = [image("t", file="f", pixels="p")]
    train = [image("c"), image("b", pixels="p"), image("a", file="f", pixels="p")]
    assert [(leak.kind, leak.train) for leak in find_leaks(train, test).leaks] == [(0, "a"), (1, "b"), (2, "c")]


@pytest.mark.parametrize(("block", "width", "cells"), [(1, 1, 1), (3, 2, 4), (4096, 1 << 14, 1 << 20)])
def test_blocks_do_not_change_what_is_found(monkeypatch, block, width, cells):
    monkeypatch.setattr(leakage, "_BLOCK", block)
    monkeypatch.setattr(leakage, "_WIDTH", width)
    monkeypatch.setattr(leakage, "_CELLS", cells)
    test = [image(f"t{index}", index, index) for index in range(7)]
    train = [image(f"a{index}", 6 * index, 20 * index) for index in range(5)]
    expected = sorted(
        Leak(2, abs(6 * a - t), abs(20 * a - t), f"t{t}", f"a{a}")
        for a in range(5)
        for t in range(7)
        if abs(6 * a - t) <= 8 and abs(20 * a - t) <= 48
    )
    assert find_leaks(iter(train), test).leaks == expected


def test_only_the_nearest_are_kept_but_all_are_counted():
    train = [image(f"a{index:03}", index % 5) for index in range(200)]
    found = find_leaks(train, [image("t")])
    assert found.num_pairs == 200
    assert [leak.train for leak in found.leaks] == [f"a{5 * index:03}" for index in range(MOST_KEPT)]


def test_flat_and_unreadable_images_are_counted_and_not_compared():
    images = ImageSet("set")
    usable = list(images.usable([image("a"), image("black", flat=True), ImageFile("bad", "why")]))
    assert [one.name for one in usable] == ["a"]
    assert (images.images, images.flat, images.unreadable) == (2, 1, 1)
    assert (images.flat_names, images.problems) == (["black"], [("bad", "why")])
    many = ImageSet("set")
    assert list(many.usable(ImageFile(str(index), "why") for index in range(MOST_LISTED + 5))) == []
    assert (many.unreadable, len(many.problems)) == (MOST_LISTED + 5, MOST_LISTED)


def test_nothing_on_one_side_is_not_a_leak():
    assert find_leaks([image("a")], []).leaks == []
    assert find_leaks([], [image("t")]).num_pairs == 0
