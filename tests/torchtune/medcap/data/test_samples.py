from types import SimpleNamespace

import pytest

from medcap.data.labels_and_image_tokens import TokenizedChat
from medcap.data.samples import tokenize_record
from medcap.errors import UserError

IMAGE = 9


def sample_of(tokens, labels, images=()):
    tokenizer = SimpleNamespace(
        image_token_id=IMAGE, tokenize=lambda *_: TokenizedChat(tokens, labels, list(images), [2] * len(images))
    )
    return tokenize_record(SimpleNamespace(messages=[]), "row 0", tokenizer, 100, None)


def test_targets_are_the_labels_of_the_next_token_and_the_last_one_is_not_computed():
    sample = sample_of([1, IMAGE, IMAGE, 5, 6, 7, 8], [-100] * 5 + [7, 8], ("a",))
    assert sample.tokens.tolist() == [1, IMAGE, IMAGE, 5, 6, 7]
    assert sample.targets.tolist() == [-100, -100, -100, -100, 7, 8]
    assert (sample.images, sample.images_end, sample.start) == (("a",), 3, 0)


def test_what_follows_the_last_answer_is_left_out_with_its_images():
    sample = sample_of([1, IMAGE, IMAGE, 5, 6, IMAGE, IMAGE, 4], [-100, -100, -100, 5] + [-100] * 4, ("a", "b"))
    assert sample.tokens.tolist() == [1, IMAGE, IMAGE]
    assert sample.targets.tolist() == [-100, -100, 5]
    assert (sample.images, sample.image_lengths) == (("a",), (2,))


def test_a_first_token_alone_cannot_be_learnt():
    with pytest.raises(UserError, match="nothing comes before"):
        sample_of([5, 6], [5, -100])
