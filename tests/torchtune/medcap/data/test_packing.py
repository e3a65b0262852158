import numpy as np
import pytest

from medcap.data.packing import Sample, make_documents, pack_documents, pack_row


def sample(tokens, first_label, images=(), images_end=0, name="row"):
    tokens = np.array(tokens, dtype=np.int32)
    labels = np.where(np.arange(len(tokens)) >= first_label, tokens, -100).astype(np.int32)
    return Sample(tokens, labels, images, images_end, name)


# One image (99 99), two questions: the prefix they share is [1, 99, 99, 5].
FIRST = sample([1, 99, 99, 5, 6, 7], 5, ("a",), 3)
SECOND = sample([1, 99, 99, 5, 8, 9, 10], 5, ("a",), 3)
TEXT = sample([1, 4, 3], 2)


def test_samples_of_one_image_become_one_document():
    (document,) = make_documents([FIRST, SECOND], [0, 1], row_length=20)
    assert (document.samples, document.prefix, document.length) == ((0, 1), 4, 9)


def test_layout_of_a_shared_document_and_a_text_row():
    samples = [FIRST, SECOND, TEXT]
    row = pack_row(samples, make_documents(samples, [0, 1, 2], 14), 14, pad_id=0)
    assert row.tokens.tolist() == [1, 99, 99, 5, 6, 7, 8, 9, 10, 1, 4, 3, 0, 0]
    assert row.labels.tolist() == [-100] * 5 + [7, -100, 9, 10, -100, -100, 3, -100, -100]
    assert row.input_pos.tolist() == [0, 1, 2, 3, 4, 5, 4, 5, 6, 0, 1, 2, 0, 0]
    assert row.document.tolist() == [0] * 9 + [1] * 3 + [-1] * 2
    assert row.branch.tolist() == [0] * 4 + [1] * 2 + [2] * 3 + [0] * 5
    assert row.images == ("a",)


def test_every_label_keeps_its_predictor_in_its_own_branch():
    # The same question with two answers: the token before the first label must not be shared.
    same = [sample([1, 99, 5, 6, value], 4, ("a",), 2) for value in (7, 8)]
    (document,) = make_documents(same, [0, 1], 20)
    assert document.prefix == 3
    row = pack_row(same, [document], 8, pad_id=0)
    assert row.tokens.tolist() == [1, 99, 5, 6, 7, 6, 8, 0]


def test_a_prefix_that_does_not_hold_all_images_is_not_shared():
    early = sample([1, 99, 5, 6], 3, ("a",), 2)
    late = sample([1, 5, 99, 6], 3, ("a",), 3)
    assert [document.samples for document in make_documents([early, late], [0, 1], 20)] == [(0,), (1,)]


def test_sharing_can_be_turned_off_and_differing_images_never_share():
    other = sample([1, 99, 99, 5, 6, 7], 5, ("b",), 3)
    assert len(make_documents([FIRST, SECOND], [0, 1], 20, share=False)) == 2
    assert len(make_documents([FIRST, other], [0, 1], 20)) == 2


def test_questions_that_do_not_fit_go_into_another_document():
    questions = [sample([1, 99, 99, 5, value, value], 5, ("a",), 3) for value in range(10, 17)]
    documents = make_documents(questions, range(7), row_length=10)
    assert [document.samples for document in documents] == [(0, 1, 2), (3, 4, 5), (6,)]
    assert all(document.length <= 10 for document in documents)


def test_a_sample_longer_than_a_row_is_an_error():
    with pytest.raises(ValueError, match="has 6 tokens"):
        make_documents([FIRST], [0], row_length=5)


@pytest.mark.parametrize("seed", range(5))
def test_packing_covers_everything_once_and_never_overflows(seed):
    lengths = np.random.default_rng(seed).integers(1, 41, 3000).tolist()
    rows = pack_documents(lengths, 64, window=500)
    assert sorted(index for row in rows for index in row) == list(range(3000))
    assert all(sum(lengths[index] for index in row) <= 64 for row in rows)
    assert sum(lengths) / (64 * len(rows)) > 0.97


def test_best_fit_fills_exact_gaps():
    assert pack_documents([6, 4, 7, 3], 10) == [[2, 3], [0, 1]]
