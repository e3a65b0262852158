import numpy as np

from medcap.data.packing import Sample
from medcap.data.shared_prefix import continue_prompt_prefix, find_prompt_prefix

IMAGE = 99


def sample(tokens, first_target):
    tokens = np.array(tokens, dtype=np.int32)
    targets = np.where(np.arange(len(tokens)) >= first_target, 7, -100).astype(np.int32)
    positions = np.flatnonzero(tokens == IMAGE)
    images, lengths = (("a",), (len(positions),)) if len(positions) else ((), ())
    return Sample(tokens, targets, images, lengths, int(positions[-1]) + 1 if len(positions) else 0, "row")


def test_the_beginning_that_saves_most_is_chosen():
    plain = [sample([1, 2, 3, IMAGE, value, 6], 5) for value in range(4)]
    longer = [sample([1, 2, 3, 4, 5, IMAGE, 6], 6) for _ in range(2)]
    assert find_prompt_prefix(plain + longer, IMAGE) == (1, 2, 3)
    assert find_prompt_prefix(longer * 3, IMAGE) == (1, 2, 3, 4, 5)


def test_samples_that_begin_differently_have_none():
    assert find_prompt_prefix([sample([1, IMAGE, 6], 2), sample([2, IMAGE, 6], 2)], IMAGE) == ()
    assert find_prompt_prefix([sample([1, IMAGE, 6], 2)], IMAGE) == ()
    assert find_prompt_prefix([], IMAGE) == ()


def test_it_ends_before_the_image_and_before_what_is_learnt():
    assert find_prompt_prefix([sample([1, 2, 3, 4], 2)] * 2, IMAGE) == (1, 2)
    assert find_prompt_prefix([sample([1, 2, IMAGE, 4], 1)] * 2, IMAGE) == (1,)


def test_a_sample_leaves_it_out_and_begins_after_it():
    rest = continue_prompt_prefix(sample([1, 2, IMAGE, IMAGE, 5, 6], 5), (1, 2), IMAGE)
    assert rest.tokens.tolist() == [IMAGE, IMAGE, 5, 6]
    assert rest.targets.tolist() == [-100, -100, -100, 7]
    assert (rest.images_end, rest.start, rest.images) == (2, 2, ("a",))
    text = continue_prompt_prefix(sample([1, 2, 5, 6], 3), (1, 2), IMAGE)
    assert (text.tokens.tolist(), text.images_end, text.start) == ([5, 6], 0, 2)


def test_a_sample_that_does_not_begin_with_it_stays_whole():
    for tokens, first_target in ([1, 3, IMAGE, 5], 3), ([1, IMAGE, 2, 5], 3), ([1, 2, 5, 6], 1), ([1, 2], 2):
        whole = sample(tokens, first_target)
        assert continue_prompt_prefix(whole, (1, 2), IMAGE) is whole
    whole = sample([1, 2, IMAGE, 5], 3)
    assert continue_prompt_prefix(whole, (), IMAGE) is whole
