import pytest

from helpers.tokenizers import tiny_tokenizer_file
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.generation.text_stream import TextStream
from medcap.models.tokenizers import llama3_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Cuts most words into bytes."""
    return ChatTokenizer(llama3_tokenizer(str(tiny_tokenizer_file(tmp_path_factory.mktemp("tokenizer")))), 1)


def ids(tokenizer, text):
    return tokenizer.tokenizer.encode(text, add_bos=False, add_eos=False)


def pieces(tokenizer, text, stop=()):
    stream = TextStream(tokenizer, stop)
    given = [stream.push(token) for token in ids(tokenizer, text)]
    return [*given, stream.finish()], stream.stopped


@pytest.mark.parametrize(
    "text", ["the left lung", "  two\n\nlines \t of words  ", "37 °C, β-catenin, 胸部 🫁 naïve", "\n", "trailing   "]
)
def test_pieces_make_up_the_answer(tokenizer, text):
    given, stopped = pieces(tokenizer, text)
    assert "".join(given) == tokenizer.decode(ids(tokenizer, text)) == text.strip()
    assert not stopped


def test_a_character_of_several_bytes_comes_whole(tokenizer):
    given, _ = pieces(tokenizer, "a🫁b")
    assert [piece for piece in given if piece] == ["a", "🫁", "b"]


def test_words_come_with_the_token_that_completes_them(tokenizer):
    stream = TextStream(tokenizer)
    given = [stream.push(token) for token in ids(tokenizer, "xyz")]
    assert given == ["x", "y", "z"]
    assert stream.finish() == ""


def test_white_space_waits_for_what_follows_it(tokenizer):
    stream = TextStream(tokenizer)
    assert [stream.push(token) for token in ids(tokenizer, "x \n")] == ["x"] + [""] * (len(ids(tokenizer, "x \n")) - 1)
    assert stream.push(ids(tokenizer, "y")[0]) == " \ny"


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(["yz"], "ab x"), (["zzz", "x"], "ab"), (["ab"], ""), (["zy"], "ab xyzz"), (["b x", "x"], "a")],
)
def test_an_answer_ends_before_the_first_stop_text(tokenizer, stop, expected):
    given, stopped = pieces(tokenizer, "ab xyzz", stop)
    assert "".join(given) == expected
    assert stopped == (expected != "ab xyzz")


def test_what_may_become_a_stop_text_is_held_back(tokenizer):
    stream = TextStream(tokenizer, ["xyz"])
    assert [stream.push(token) for token in ids(tokenizer, "axyaxyzb")] == ["a", "", "", "xya", "", "", "", ""]
    assert stream.stopped and stream.finish() == ""


@pytest.mark.parametrize(
    ("prefix", "text", "stop", "expected"),
    [
        ("The answer is", " yes, left", (), " yes, left"),
        ("The an", "swer", (), "swer"),
        ("The answer is", " yes, left", (",",), " yes"),
        # A stop text that the prefix holds, or begins, ends nothing.
        ("Yes, so", " it is", ("Yes", "o it"), " it is"),
        ("", "yes", (), "yes"),
    ],
)
def test_an_answer_continues_from_a_prefix(tokenizer, prefix, text, stop, expected):
    stream = TextStream(tokenizer, stop, ids(tokenizer, prefix))
    given = "".join([*(stream.push(token) for token in ids(tokenizer, text)), stream.finish()])
    assert (given, stream.stopped) == (expected, expected != text)
