"""Cut what a Jinja2 chat template writes into the texts before, between and after the words of the turns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import Any

from medcap.errors import UserError, WordsError

# For a language model that was trained on plain text: nothing but the end-of-text token marks an answer's end.
PLAIN = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}{{- message.content + '\\n\\n' }}
    {%- elif message.role == 'assistant' %}{{- 'Assistant: ' + message.content + eos_token }}
    {%- else %}{{- 'User: ' + message.content + '\\n' }}
    {%- endif %}
{%- endfor %}"""
# A private-use character stands for the words of a turn, so that no template can change them.
_FIRST = 0x100000
_STAND_IN = re.compile("([\U00100000-\U0010ffff])")
_USER, _ASSISTANT, _SYSTEM = "user", "assistant", "system"


class ChatTemplate:
    """A chat template that writes the same text before an answer in training and in a prompt.

    The text before an answer is what the template writes if this answer is the last turn. A template that writes past
    answers in another way (Qwen 3 leaves their thinking out) would otherwise give a training sample another context
    than the prompt had. Only where it ends a past answer otherwise than the last one (gpt-oss), both ends are kept:
    that is no part of the prompt which the answer follows.

    Args:
        text: the template, in Jinja2.
        variables: what it reads beside the messages and the options.
        options: what the user sets of it. With options an answer is opened by the generation prompt that they make,
            where that goes on further than the template's text before an answer (an empty thought, for SmolLM 3).
        today: day that it gets where it writes the date. A fixed one: a prompt of today would not be that of training.
        place: file that holds it, for messages.

    Attributes:
        text: the template.
        place: file that holds it.

    Raises:
        UserError: if it is not a Jinja2 template.
    """

    def __init__(
        self, text: str, variables: Mapping[str, Any], options: Mapping[str, Any], today: date, place: str
    ) -> None:
        self.text = text
        self._variables = {**variables, **options}
        self._has_options = bool(options)
        self._today = today
        self._takes_parts = False
        self.place = place
        turns = [_USER, _ASSISTANT]
        if self._stand_ins_of(turns) != _stand_ins(2):
            # Templates of models with images (LLaVA) take lists of parts.
            self._takes_parts = True
            self._takes_parts = self._stand_ins_of(turns) == _stand_ins(2)

    @property
    def key(self) -> str:
        """The template and all that it reads beside the messages."""
        return repr((self.text, sorted(self._variables.items()), self._today.isoformat()))

    @property
    def variables(self) -> frozenset[str]:
        """Names that the template reads, those of the messages included."""
        from jinja2 import meta

        return frozenset(meta.find_undeclared_variables(self._compiled().environment.parse(self.text)))

    def gaps(self, roles: Sequence[str]) -> list[str]:
        """Write the text around the words of a conversation.

        Args:
            roles: the turns' roles.

        Returns:
            The text before the words of each turn, and the text after the last words.

        Raises:
            WordsError: if the template refuses such turns.
            UserError: if it does not write the words of every turn once, and in their order.
        """
        gaps: list[str] = []
        for number in [number for number, role in enumerate(roles) if role == _ASSISTANT]:
            gaps += self._render(roles[: number + 1])[len(gaps) : number + 1]
            if self._has_options and number > 0 and roles[number - 1] != _ASSISTANT:
                opened = self._render(roles[:number], opened=True)[-1]
                gaps[-1] = opened if opened.startswith(gaps[-1]) else gaps[-1]
        return gaps + self._render(roles)[len(gaps) :]

    @cached_property
    def _loses_system(self) -> bool:
        """Whether the system's words are left out, or go with the last question, which changes every earlier prompt.

        Mistral's templates do either. The words then go in front of the first question, where they can stay.
        """
        found = self._stand_ins_of([_SYSTEM, _USER, _ASSISTANT, _USER, _ASSISTANT])
        wanted = _stand_ins(5)
        return found != wanted and [word for word in found if word != wanted[0]] == wanted[1:]

    def _stand_ins_of(self, roles: Sequence[str]) -> list[str]:
        """Return which words the template writes; none where it refuses these turns, which it says when it gets them.

        Raises:
            UserError: if it is not a template.
        """
        self._compiled()
        try:
            return self._write(roles)[1::2]
        except Exception:  # a template raises what it likes
            return []

    def _render(self, roles: Sequence[str], opened: bool = False) -> list[str]:
        lost = len(roles) > 1 and roles[0] == _SYSTEM and self._loses_system
        try:
            pieces = (
                self._write(roles[1:], opened, 1, f"{_stand_ins(1)[0]}\n\n") if lost else self._write(roles, opened)
            )
        except (UserError, MemoryError):
            raise
        except Exception as error:  # a template raises what it likes
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise WordsError(f"{self.place}: the chat template refuses {', '.join(roles)}: {reason}") from error
        if pieces[1::2] != _stand_ins(len(roles)):
            raise UserError(
                f"{self.place}: this chat template cannot be split into turns: it does not write the words of"
                f" {', '.join(roles)} once each and in this order; give another one in tokenizer.chat_template"
            )
        return pieces[::2]

    def _write(self, roles: Sequence[str], opened: bool = False, first: int = 0, before: str = "") -> list[str]:
        """Return texts and stand-ins, which take turns.

        Args:
            roles: the turns' roles.
            opened: whether to open an answer after them, as for generation.
            first: number of the first stand-in.
            before: what to put in front of it.
        """
        words = _stand_ins(first + len(roles))[first:]
        words[0] = before + words[0]
        contents = [[{"type": "text", "text": word}] if self._takes_parts else word for word in words]
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        text = self._compiled().render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=opened,
            strftime_now=self._today.strftime,
            **self._variables,
        )
        return _STAND_IN.split(text)

    def _compiled(self) -> Any:
        # transformers' own environment (a sandbox without access to Python's internals), and its cache.
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import _compile_jinja_template

        try:
            return _compile_jinja_template(self.text)
        except TemplateError as error:
            raise UserError(f"{self.place}: this is not a chat template: {error}") from error


def _stand_ins(count: int) -> list[str]:
    return [chr(_FIRST + number) for number in range(count)]
