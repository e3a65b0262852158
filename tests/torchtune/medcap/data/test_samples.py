from types import SimpleNamespace

import pytest
from torchtune.data import Message

from medcap.data.added_tokens import AddedTokens
from medcap.data.answer_targets import BoxTarget
from medcap.data.boxes.box import Box
from medcap.data.labels_and_image_tokens import TokenizedChat
from medcap.data.samples import tokenize_record
from medcap.errors import UserError

IMAGE = 9


BOX = 8
ADDED = AddedTokens(("<BOX>",), BOX, box_word="<BOX>")


def sample_of(tokens, labels, images=(), boxes=(), added=None, turns=()):
    tokenizer = SimpleNamespace(
        image_token_id=IMAGE,
        added=added,
        tokenize=lambda *_: TokenizedChat(tokens, labels, list(images), [2] * len(images)),
    )
    messages = [Message(role=role, content=text) for role, text in turns]
    return tokenize_record(SimpleNamespace(messages=messages, boxes=boxes, masks=()), "row 0", tokenizer, 100, None)


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


FIRST, SECOND = (0.1, 0.2, 0.3, 0.4), (0.5, 0.5, 0.75, 1.0)
# A picture, a question, <BOX> and 5 <BOX>, the end of the answer.
TOKENS = [1, IMAGE, IMAGE, 4, BOX, 5, BOX, 2]
LABELS = [-100, -100, -100, -100, BOX, 5, BOX, 2]
ANSWER = [("user", "Where?"), ("assistant", "<BOX> and <BOX>")]


def test_each_box_is_predicted_by_the_token_before_its_word():
    sample = sample_of(TOKENS, LABELS, ("a",), (Box(FIRST), Box(SECOND)), ADDED, ANSWER)
    assert sample.boxes == (BoxTarget(3, FIRST, 0), BoxTarget(5, SECOND, 0))
    assert [sample.targets[box.position] for box in sample.boxes] == [BOX, BOX]


def test_the_box_of_a_word_that_was_cut_off_goes_with_it():
    sample = sample_of(TOKENS[:6], LABELS[:6], ("a",), (Box(FIRST), Box(SECOND)), ADDED, ANSWER)
    assert sample.boxes == (BoxTarget(3, FIRST, 0),)


def test_a_box_lies_on_the_last_image_before_its_word():
    tokens, labels = [IMAGE, IMAGE, IMAGE, IMAGE, 4, BOX], [-100] * 5 + [BOX]
    answer = [("user", "Where?"), ("assistant", "<BOX>")]
    sample = sample_of(tokens, labels, ("a", "b"), (Box(FIRST, image=1),), ADDED, answer)
    assert sample.boxes == (BoxTarget(4, FIRST, 1),)
    with pytest.raises(UserError, match=r"lies on image 1, but the model gives them on the last image .* here 2"):
        sample_of(tokens, labels, ("a", "b"), (Box(FIRST),), ADDED, answer)
    with pytest.raises(UserError, match="an answer has a box, but no image comes before it"):
        sample_of([4, BOX], [-100, BOX], (), (Box(FIRST),), ADDED, answer)


@pytest.mark.parametrize(
    ("boxes", "added", "turns", "message"),
    [
        ((Box(FIRST),), ADDED, ANSWER, "its answers have 2 <BOX> but 1 box: give each word its box"),
        ((Box(FIRST),), ADDED, [("user", "Where?"), ("assistant", "there")], r"have 0 <BOX> but 1 box"),
        ((), ADDED, [("user", "What is in <BOX>?"), ("assistant", "a cyst")], "<BOX> stands in a question"),
        ((Box(FIRST),), None, ANSWER, "but the model gives none: add box_decoder, or write them out"),
    ],
)
def test_words_and_boxes_that_do_not_belong_together_are_refused(boxes, added, turns, message):
    with pytest.raises(UserError, match=message):
        sample_of(TOKENS, LABELS, ("a",), boxes, added, turns)
