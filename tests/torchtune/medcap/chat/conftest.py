import io

import pytest

from helpers.tiny_generation import tiny_generator, write_images
from medcap.chat.terminal import Chat
from medcap.generation.request import Generation, Sampling


@pytest.fixture
def generator(tmp_path, monkeypatch):
    write_images(tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    return tiny_generator(tmp_path)


@pytest.fixture
def talk(generator, monkeypatch, capsys):
    """Types lines; returns the lines of standard output and of standard error."""

    def type_lines(*lines, chat=None):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        (chat or Chat(Sampling(max_new_tokens=6))).talk(generator)
        out, err = capsys.readouterr()
        return out.splitlines(), err.splitlines()

    return type_lines


@pytest.fixture
def say(generator, monkeypatch):
    """Has the model say words, none, stop at Ctrl-C before a word, or fail; remembers what it was asked."""
    requests = []

    def answer_with(*outcomes):
        left = list(outcomes)

        def generate(asked, sampling, on_token):
            requests.append(
                [(turn.role, [str(part["content"]) for part in turn.content]) for turn in asked[0].messages]
            )
            outcome = left.pop(0)
            if isinstance(outcome, BaseException):
                raise outcome
            tokens = generator.tokenizer.tokenizer.encode(outcome, add_bos=False, add_eos=False)
            for token in tokens:
                on_token(0, token)
            return [Generation(outcome, tokens)]

        monkeypatch.setattr(generator, "generate", generate)
        return requests

    return answer_with
