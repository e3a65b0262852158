import pytest

from medcap.errors import UserError
from medcap.evaluation.judges.base import Judge, Reply
from medcap.evaluation.judges.chat import chat


class Echo(Judge):
    kind = name = "echo"
    settings = {}  # noqa: RUF012

    def ask(self, prompts, on_reply):
        if prompts == ["down"]:
            raise UserError("the endpoint does not reply")
        error = "too long" if prompts == ["long"] else ""
        if prompts == ["silent"]:
            return on_reply(0, Reply("", "length"))
        return on_reply(0, Reply(f"you said {prompts[0]}", error=error))


@pytest.fixture
def typed(monkeypatch):
    def type_in(*lines):
        left = iter(lines)

        def answer(prompt):
            assert prompt == "Inst: "
            line = next(left)
            if isinstance(line, type):
                raise line
            return line

        monkeypatch.setattr("builtins.input", answer)
        return left

    return type_in


def test_each_line_is_answered_until_q(typed, capsys):
    left = typed(" hello ", "", "long", "down", "silent", "again", "q", "never")
    chat(Echo())
    shown = capsys.readouterr()
    assert shown.out == "you said hello\nyou said again\n"
    assert shown.err.splitlines() == [
        "error: too long",
        "error: the endpoint does not reply",
        "error: the reply has no words (finish length)",
    ]
    assert list(left) == ["never"]


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_the_end_of_input_and_ctrl_c_leave(typed, capsys, end):
    typed("hello", end)
    chat(Echo())
    assert capsys.readouterr().out == "you said hello\n\n"
