from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from medcap.data.answer_targets import BoxTarget
from medcap.data.batch import Batch, make_batch
from medcap.data.packing import Sample, pack_row

IMAGE = 9


def sample(image, words, start=0):
    tokens = np.array([IMAGE, IMAGE, *words] if image else [1, *words], dtype=np.int32)
    targets = np.where(np.arange(len(tokens)) >= len(tokens) - 2, tokens, -100).astype(np.int32)
    images, lengths = ((image,), (2,)) if image else ((), ())
    return Sample(tokens, targets, images, lengths, 2 if image else 0, "row", start)


def batch():
    """Two rows: two documents of an image each and padding; one text and a document of two branches."""
    rows = [
        pack_row([[sample("a", [3, 4, 5])], [sample("b", [6, 7], start=2)]], 12, pad_id=0),
        pack_row([[sample(None, [5, 6])], [sample("a", [3, 4]), sample("a", [5, 6, 7])]], 12, pad_id=0),
    ]
    images = {"a": torch.full((3, 2, 2), 1, dtype=torch.uint8), "b": torch.full((3, 2, 2), 2, dtype=torch.uint8)}
    return make_batch(rows, IMAGE, 2, images.__getitem__, ("r",), prompt_prefix=(7, 8))


def equal(one: Batch, other: Batch) -> bool:
    for name in (field.name for field in fields(Batch) if field.name != "buffer"):
        left, right = getattr(one, name), getattr(other, name)
        same = (
            torch.equal(left, right) and left.dtype == right.dtype if isinstance(left, torch.Tensor) else left == right
        )
        if not same:
            return False
    return True


def test_target_positions_are_where_something_is_predicted():
    made = batch()
    assert made.target_positions.tolist() == [3, 4, 7, 8, 13, 14, 17, 18, 20, 21]
    assert made.counts["text"] == 10
    assert made.num_tokens == 5 + 4 + 3 + 7


def test_without_padding_the_tokens_are_in_one_row():
    flat = batch().without_padding()
    assert flat.tokens.tolist() == [[9, 9, 3, 4, 5, 9, 9, 6, 7, 1, 5, 6, 9, 9, 3, 4, 5, 6, 7]]
    assert flat.document.tolist() == [[0] * 5 + [1] * 4 + [2] * 3 + [3] * 7]
    assert flat.branch.tolist() == [[0] * 14 + [1, 1, 2, 2, 2]]
    assert flat.input_pos.tolist() == [[0, 1, 2, 3, 4, 2, 3, 4, 5, 0, 1, 2, 0, 1, 2, 3, 2, 3, 4]]
    assert flat.after_prompt_prefix.tolist() == [[0] * 5 + [1] * 4 + [0] * 10]
    assert flat.image_lengths.tolist() == [2, 2, 2]
    assert flat.image_positions.tolist() == [0, 1, 5, 6, 12, 13]
    assert flat.target_positions.tolist() == [3, 4, 7, 8, 10, 11, 14, 15, 17, 18]


def long_and_short(names="abc", lengths=(4, 2, 6), loaded=(2, 1, 3)):
    """Three images of two, one and three pictures, two of them side by side; each picture has 2 tokens."""
    tokens = np.array([1, *[IMAGE] * 6, 3, 4, 5], dtype=np.int32)
    targets = np.array([-100] * 8 + [6, 7], dtype=np.int32)
    together = Sample(tokens, targets, tuple(names[:2]), lengths[:2], 7, "one")
    alone = Sample(np.array([*[IMAGE] * 6, 3, 4]), np.array([-100] * 7 + [5]), (names[2],), lengths[2:], 6, "two")
    row = pack_row([[together], [alone]], 20, pad_id=0)
    images = {
        name: torch.full((count, 3, 2, 2), ord(name), dtype=torch.uint8)
        for name, count in zip(names, loaded, strict=True)
    }
    return make_batch([row], IMAGE, 2, images.__getitem__, ("one", "two"))


def test_images_of_several_pictures_fill_their_own_runs():
    made = long_and_short()
    assert made.num_images == 6
    assert made.images[:, 0, 0, 0].tolist() == [97, 97, 98, 99, 99, 99]
    assert made.image_lengths.tolist() == [2] * 6
    assert made.image_positions.tolist() == [*range(1, 7), *range(10, 16)]
    parts = made.micro_batches(10)
    assert [part.images[:, 0, 0, 0].tolist() for part in parts] == [[97, 97, 98], [99, 99, 99]]
    assert [part.image_positions.tolist() for part in parts] == [[*range(1, 7)], [*range(6)]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # The sum is right, but the second image would begin in the first one's run.
        ({"loaded": (1, 2, 3)}, r"they have \[2, 4, 6\] tokens, their runs \[4, 2, 6\]"),
        ({"lengths": (2, 2, 6), "loaded": (1, 1, 3)}, r"12 placeholders for 3 images in one, two"),
        # The run of the second image would go on in the next document.
        ({"lengths": (4, 4, 4), "loaded": (2, 2, 2)}, "not one run in one, two"),
    ],
)
def test_an_image_that_does_not_fit_its_run_is_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        long_and_short(**changes)


def test_parts_end_with_documents_and_hold_their_images():
    parts = batch().micro_batches(9)
    assert [part.num_tokens for part in parts] == [9, 3, 7]
    assert [part.counts["text"] for part in parts] == [4, 2, 4]
    assert [part.num_images for part in parts] == [2, 0, 1]
    assert parts[0].images[:, 0, 0, 0].tolist() == [1, 2]
    assert parts[1].images is None and parts[1].image_positions is None
    assert parts[2].image_positions.tolist() == [0, 1]
    assert [part.image_lengths.tolist() for part in parts[::2]] == [[2, 2], [2]]
    assert parts[2].target_positions.tolist() == [2, 3, 5, 6]
    assert [part.num_tokens for part in batch().micro_batches(1)] == [5, 4, 3, 7]
    assert [part.num_tokens for part in batch().micro_batches(100)] == [19]


def test_one_buffer_holds_the_same_batch():
    made = batch()
    together = made.in_one_buffer()
    assert equal(made, together)
    storage = together.buffer.untyped_storage().data_ptr()
    tensors = [getattr(together, field.name) for field in fields(Batch)]
    assert all(t.untyped_storage().data_ptr() == storage for t in tensors if isinstance(t, torch.Tensor))


def test_one_copy_takes_it_to_a_device():
    moved = batch().in_one_buffer().to(torch.device("meta"))
    assert moved.tokens.device.type == moved.images.device.type == "meta"
    assert moved.tokens.shape == (2, 12)
    assert moved.tokens.untyped_storage()._cdata == moved.images.untyped_storage()._cdata
    here = batch()
    assert here.to(torch.device("cpu")) is here
    assert batch().without_padding().buffer is None


def batch_with_boxes():
    """Two rows; the documents show images of 2, 1 and 1 pictures; boxes of two branches, and of the last document."""
    edges = [(0.0, 0.0, 0.5, number / 10) for number in range(1, 4)]
    wide = Sample(np.array([*[IMAGE] * 4, 3, 4]), np.array([-100] * 4 + [4, 5]), ("w",), (4,), 4, "wide")
    first = replace(sample("a", [3, 4]), boxes=(BoxTarget(2, edges[0], 0), BoxTarget(3, edges[1], 0)))
    second = replace(sample("a", [5, 6, 7]), boxes=(BoxTarget(4, edges[2], 0),))
    last = replace(sample("b", [6, 7]), boxes=(BoxTarget(2, None, 0), BoxTarget(3, edges[0], 0)))
    rows = [pack_row([[wide], [first, second]], 14, pad_id=0), pack_row([[last]], 14, pad_id=0)]
    counts = {"w": 2, "a": 1, "b": 1}
    return make_batch(rows, IMAGE, 2, lambda name: torch.zeros(counts[name], 3, 2, 2, dtype=torch.uint8), ("r",))


def test_boxes_are_at_their_tokens_and_on_the_picture_that_shows_the_whole_image():
    made = batch_with_boxes()
    assert made.box_positions.tolist() == [8, 9, 12, 16, 17]
    assert made.box_images.tolist() == [2, 2, 2, 3, 3]
    torch.testing.assert_close(made.box_targets[:, 3], torch.tensor([0.1, 0.2, 0.3, 0.0, 0.1]))
    assert made.box_seen.tolist() == [1, 1, 1, 0, 1]
    assert made.counts == {"text": 8, "box_l1": 4, "box_giou": 4, "box_seen": 5, "box_look": 5}
    assert set(made.box_positions.tolist()) <= set(made.target_positions.tolist())
    assert equal(made.in_one_buffer(), made)


def test_parts_hold_the_boxes_of_their_documents():
    wide, branches, last = batch_with_boxes().micro_batches(7)
    assert wide.box_targets is wide.box_images is wide.box_positions is None
    assert [part.counts["box_l1"] for part in (wide, branches, last)] == [0, 3, 1]
    assert [part.counts["box_seen"] for part in (wide, branches, last)] == [0, 3, 2]
    assert branches.box_positions.tolist() == [2, 3, 6] and last.box_positions.tolist() == [2, 3]
    assert branches.box_images.tolist() == [0, 0, 0] and last.box_images.tolist() == [0, 0]
    assert [part.counts["text"] for part in (wide, branches, last)] == [2, 4, 2]


@pytest.mark.parametrize(
    ("documents", "prompt_prefix", "causal"),
    [
        ([[sample("a", [3, 4, 5])]], (), True),
        ([[sample("a", [3, 4])], [sample(None, [5, 6])]], (), False),
        ([[sample("a", [3, 4]), sample("a", [5, 6, 7])]], (), False),
        ([[sample("a", [3, 4], start=2)]], (7, 8), True),
        ([[sample("a", [3, 4])]], (7, 8), False),
    ],
    ids=["one", "two documents", "branches", "after the prefix", "not after the prefix"],
)
def test_rows_of_one_document_need_no_mask(documents, prompt_prefix, causal):
    rows = [pack_row([[sample("a", [1, 2], start=len(prompt_prefix))]], 12, 0), pack_row(documents, 12, 0)]
    images = {"a": torch.zeros(3, 2, 2, dtype=torch.uint8)}
    made = make_batch(rows, IMAGE, 2, images.__getitem__, prompt_prefix=prompt_prefix)
    assert made.causal is causal
    assert not made.without_padding().causal


def test_rows_of_padding_change_nothing_but_the_shape():
    made = batch()
    filled = made.with_rows(4)
    assert filled.tokens.shape == filled.targets.shape == (4, 12)
    assert torch.equal(filled.document[:2], made.document) and (filled.document[2:] == -1).all()
    assert (filled.targets[2:] == -100).all()
    assert equal(filled.without_padding(), made.without_padding())
    assert filled.num_tokens == made.num_tokens
    assert made.with_rows(2) is made
