import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medcap.scoring.replies.option_reply import parse_option

BOUNDED = settings(derandomize=True, deadline=None, max_examples=100)
NAMES = [
    "heart",
    "lung",
    "left kidney",
    "T2-weighted image",
    "no fracture",
    "fracture",
    "vitamin D",
    "X-ray",
    "3 cm",
    "2",
]
NAMES += ["Non-small cell", "without contrast", "E. coli", "absent", "yes", "no", "肺", "Grade II"]
OTHER_WORDS = ["it", "is", "not", "or", "but", "wrong", "the", "shows", ".", ",", ":", "\n"]
WORDS = [
    *OTHER_WORDS,
    "A",
    "B",
    "C",
    "I",
    "(",
    ")",
    "/",
    "&",
    "<think>",
    "</think>",
    "answer",
    "Option",
    "2.5",
    "Ｂ",
    "答案是",
]
options = st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True)
replies = st.lists(st.sampled_from(WORDS + NAMES) | st.text(max_size=3), max_size=12).map(" ".join)
replies_in_words = st.lists(st.sampled_from(OTHER_WORDS + NAMES), max_size=8).map(" ".join)
SAYING = (
    "{}",
    "{}.",
    "The answer is {}.",
    "It is {}",
    "It shows {}.",
    "I think it is {}",
    "Answer: {}",
    "**{}**",
    "“{}”",
)
DENYING = (
    "It is not {}.",
    "The answer is not {}",
    "It cannot be {}",
    "neither {}",
    "{} is wrong.",
    "{} is ruled out",
    "{} is not correct",
)
DENYING += (
    "{} can be excluded",
    "everything except {}",
    "rather than {}",
    "It isn't {}",
    "{}: no",
    "{} is incorrect",
    "anything but {}",
)


@pytest.mark.slow
@BOUNDED
@given(st.text(max_size=60) | replies, st.lists(st.sampled_from(NAMES) | st.text(max_size=8), max_size=6))
def test_any_text_gives_an_option_or_none(reply, options):
    chosen = parse_option(reply, options)
    assert chosen is None or options[chosen].strip()


@pytest.mark.slow
@BOUNDED
@given(options, st.sampled_from(SAYING), st.data())
def test_a_letter_is_chosen_however_it_is_said(options, saying, data):
    wanted = data.draw(st.integers(0, len(options) - 1))
    assert parse_option(saying.format("ABCD"[wanted]), options) == wanted


@pytest.mark.slow
@BOUNDED
@given(options, st.sampled_from(DENYING), st.data())
def test_what_is_denied_is_never_chosen(options, denying, data):
    wanted = data.draw(st.integers(0, len(options) - 1))
    text = options[wanted]
    # "A: no" names an option where "no" is one, and "no" and "absent" deny something themselves.
    assume("no" not in options and text not in ("yes", "absent"))
    assert parse_option(denying.format("ABCD"[wanted]), options) != wanted
    assert parse_option(denying.format(text), options) != wanted


@pytest.mark.slow
@BOUNDED
@given(options, replies_in_words, st.randoms(use_true_random=False))
def test_the_order_of_the_options_does_not_change_what_a_text_names(options, reply, random):
    mixed = random.sample(options, len(options))
    chosen, other = parse_option(reply, options), parse_option(reply, mixed)
    assert (None if chosen is None else options[chosen]) == (None if other is None else mixed[other])


def wide(text):
    return "".join(chr(ord(character) + 0xFEE0) if "!" <= character <= "~" else character for character in text)


@pytest.mark.slow
@BOUNDED
@given(options, st.sampled_from(SAYING[:5]), st.data())
def test_neither_case_nor_full_width_changes_a_choice(options, saying, data):
    wanted = data.draw(st.integers(0, len(options) - 1))
    plain = saying.format(options[wanted])
    chosen = parse_option(plain, options)
    assert parse_option(plain.upper(), options) == parse_option(wide(plain), options) == chosen
    letter = saying.format("ABCD"[wanted])
    assert parse_option(wide(letter), options) == wanted


@pytest.mark.slow
@BOUNDED
@given(options, replies.filter(lambda text: "<" not in text), replies.filter(lambda text: "<" not in text))
def test_reasoning_changes_no_choice(options, thought, reply):
    assert parse_option(f"<think>{thought}</think>{reply}", options) == parse_option(reply, options)
    assert parse_option(f"<think>{thought}", options) is None


@BOUNDED
@given(options, st.integers(0, 3), st.data())
def test_empty_options_before_it_do_not_move_a_letter(options, empty, data):
    wanted = data.draw(st.integers(0, len(options) - 1))
    assert parse_option("ABCDEFGH"[empty + wanted], [""] * empty + options) == empty + wanted
