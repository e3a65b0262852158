from itertools import pairwise

import numpy as np
import pytest

from medcap.data.images.reference import ImageRef
from medcap.data.images.views import View
from medcap.data.packing import Sample, make_documents, make_table, pack_documents, pack_row, sharing


def sample(tokens, first_target, images=(), images_end=0, name="row", start=0):
    """``tokens[first_target:]`` is learnt; the last of them is not computed."""
    tokens = np.array(tokens, dtype=np.int32)
    targets = np.where(np.arange(1, len(tokens)) >= first_target, tokens[1:], -100).astype(np.int32)
    return Sample(tokens[:-1], targets, images, (2,) * len(images), images_end, name, start)


A = ImageRef("a")

# One image (99 99), two questions: what they share ends with the image, [1, 99, 99].
FIRST = sample([1, 99, 99, 5, 6, 7], 5, (A,), 3)
SECOND = sample([1, 99, 99, 5, 8, 9, 10], 5, (A,), 3)
TEXT = sample([1, 4, 3], 2)


def documents_of(samples, order=None, row_length=20, share=True):
    """The samples of each document."""
    order = np.arange(len(samples)) if order is None else np.array(order)
    found = make_documents(make_table(samples), order, row_length, share)
    return [found.samples[start:stop].tolist() for start, stop in pairwise(found.starts)], found.lengths.tolist()


def test_samples_of_one_image_become_one_document():
    assert documents_of([FIRST, SECOND]) == ([[0, 1]], [8])
    assert documents_of([FIRST, TEXT, SECOND]) == ([[0, 2], [1]], [8, 2])
    assert documents_of([FIRST, TEXT, SECOND], order=[2, 1, 0]) == ([[2, 0], [1]], [8, 2])


def test_layout_of_a_shared_document_and_a_text_row():
    row = pack_row([[FIRST, SECOND], [TEXT]], 12, pad_id=0)
    assert row.tokens.tolist() == [1, 99, 99, 5, 6, 5, 8, 9, 1, 4, 0, 0]
    assert row.targets.tolist() == [-100] * 4 + [7, -100, 9, 10, -100, 3, -100, -100]
    assert row.input_pos.tolist() == [0, 1, 2, 3, 4, 3, 4, 5, 0, 1, 0, 0]
    assert row.document.tolist() == [0] * 8 + [1] * 2 + [-1] * 2
    assert row.branch.tolist() == [0] * 3 + [1] * 2 + [2] * 3 + [0] * 4
    assert row.after_prompt_prefix.tolist() == [0] * 12
    assert row.images == (A,)


def test_only_the_same_view_of_the_same_image_is_shared():
    slices = [sample([1, 99, 99, 5, 6, 7], 5, (ImageRef("a", View(frames=number)),), 3) for number in (0, 1, 1)]
    assert documents_of([FIRST, *slices])[0] == [[0], [1], [2, 3]]
    with pytest.raises(ValueError, match="row does not begin like row"):
        pack_row([[FIRST, slices[0]]], 12, pad_id=0)


def test_the_group_of_an_image_in_the_default_view_is_that_of_its_path():
    # Kept on disk with the counted tokens; these are the numbers of plain paths.
    assert sharing(FIRST) == (3, 6488145592074204737)
    both = sample([1, 99, 99, 5, 6, 7], 5, (ImageRef("a'\"\\é.png"), ImageRef("b")), 3)
    assert sharing(both) == (3, -4392945291373667298)


def test_documents_that_continue_a_prompt_prefix_begin_after_it():
    row = pack_row([[sample([99, 99, 5, 7], 3, (A,), 2, start=4)], [TEXT]], 6, pad_id=0)
    assert row.tokens.tolist() == [99, 99, 5, 1, 4, 0]
    assert row.input_pos.tolist() == [4, 5, 6, 0, 1, 0]
    assert row.after_prompt_prefix.tolist() == [1, 1, 1, 0, 0, 0]


def test_a_sample_after_the_prompt_prefix_shares_with_none_before_it():
    begun = sample([99, 5, 6], 2, (A,), 1, start=2)
    assert documents_of([begun, sample([99, 5, 7], 2, (A,), 1)])[0] == [[0], [1]]
    assert documents_of([begun, sample([99, 5, 7], 2, (A,), 1, start=2)])[0] == [[0, 1]]


def test_what_predicts_something_is_in_its_own_branch():
    # The answer follows the image at once: the image token predicts it, so it cannot be shared.
    same = [sample([1, 99, value], 2, (A,), 2) for value in (7, 8)]
    assert documents_of(same) == ([[0], [1]], [2, 2])
    assert sharing(same[0]) == (0, 0)
    # One token between them is enough.
    later = [sample([1, 99, 6, value], 3, (A,), 2) for value in (7, 8)]
    assert documents_of(later) == ([[0, 1]], [4])
    assert pack_row([later], 6, pad_id=0).tokens.tolist() == [1, 99, 6, 6, 0, 0]


def test_another_text_before_the_image_is_not_shared():
    early = sample([1, 99, 5, 6], 3, (A,), 2)
    late = sample([1, 5, 99, 4, 6], 4, (A,), 3)
    assert documents_of([early, late])[0] == [[0], [1]]


def test_sharing_can_be_turned_off_and_differing_images_never_share():
    other = sample([1, 99, 99, 5, 6, 7], 5, (ImageRef("b"),), 3)
    assert documents_of([FIRST, SECOND], share=False)[0] == [[0], [1]]
    assert documents_of([FIRST, other])[0] == [[0], [1]]


def test_samples_that_do_not_begin_alike_cannot_be_laid_out_together():
    other = sample([1, 99, 99, 5, 6, 7], 5, (ImageRef("b"),), 3, name="another row")
    with pytest.raises(ValueError, match="another row does not begin like row"):
        pack_row([[FIRST, other]], 20, pad_id=0)
    with pytest.raises(ValueError, match="does not fit into a row of 4 tokens"):
        pack_row([[FIRST]], 4, pad_id=0)


def test_questions_that_do_not_fit_go_into_another_document():
    questions = [sample([1, 99, 99, 5, value, value], 5, (A,), 3) for value in range(10, 17)]
    groups, lengths = documents_of(questions, row_length=9)
    assert groups == [[0, 1, 2], [3, 4, 5], [6]]
    assert lengths == [9, 9, 5]


def test_unusable_samples_are_left_out_of_every_document():
    table = make_table([FIRST, SECOND, TEXT])
    table.lengths[1] = 0
    found = make_documents(table, np.array([2, 1, 0]), 20)
    assert found.samples.tolist() == [2, 0]
    assert found.lengths.tolist() == [2, 5]


def test_a_sample_longer_than_a_row_is_an_error():
    with pytest.raises(ValueError, match="has 5 tokens"):
        make_documents(make_table([FIRST]), np.array([0]), row_length=4)


def rows_of(lengths, row_length, **options):
    rows = pack_documents(lengths, row_length, **options)
    return [rows.documents[start:stop].tolist() for start, stop in pairwise(rows.starts)]


@pytest.mark.parametrize("seed", range(5))
def test_packing_covers_everything_once_and_never_overflows(seed):
    lengths = np.random.default_rng(seed).integers(1, 41, 3000).tolist()
    rows = rows_of(lengths, 64, window=500)
    assert sorted(index for row in rows for index in row) == list(range(3000))
    assert all(sum(lengths[index] for index in row) <= 64 for row in rows)
    assert sum(lengths) / (64 * len(rows)) > 0.97


def test_best_fit_fills_exact_gaps():
    assert rows_of([6, 4, 7, 3], 10) == [[2, 3], [0, 1]]


def test_rows_change_places_only_within_their_window():
    lengths = np.full(12, 10)
    plain = rows_of(lengths, 10, window=6)
    mixed = rows_of(lengths, 10, window=6, generator=np.random.default_rng(1), far=False)
    assert plain == [[index] for index in range(12)]
    assert mixed != plain
    assert sorted(mixed[:6]) == plain[:6]
    assert sorted(mixed[6:]) == plain[6:]
    anywhere = rows_of(lengths, 10, window=6, generator=np.random.default_rng(1))
    assert sorted(anywhere) == plain
    assert sorted(anywhere[:6]) != plain[:6]
