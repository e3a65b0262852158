"""Errors that are meant for the person at the keyboard, and errors for which no file is to blame."""

from __future__ import annotations

import errno

_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class UserError(Exception):
    """Something that the user can fix: the message is one line that names the key, file or row and the remedy.

    Programs started by ``tune run`` or ``medcap`` print the message without a traceback and exit with status 2.
    """


class WordsError(UserError):
    """Words that a tokenizer, or its chat template, cannot take."""


class TooManyPixelsError(UserError):
    """An image is larger than its reader takes; the reader adds the key of the limit."""


class ViewError(UserError):
    """An image does not have what a view of it asks for, such as a frame."""


class RegionError(UserError):
    """A region of a question cannot be used.

    Args:
        number: number of the region in the conversation, from 0.
        reason: one line.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number


class ViewKeyError(UserError):
    """A key of a view has an impossible value.

    Args:
        key: the key, as messages call it.
        value: what was given.
        rule: what it must be, words that follow the key.
    """

    def __init__(self, key: str, value: object, rule: str) -> None:
        text = repr(value)
        super().__init__(f"{key}={text if len(text) <= 60 else f'{text[:57]}...'} {rule}")
        self.key, self.rule = key, rule


def is_of_the_machine(error: BaseException) -> bool:
    """Return whether open files or memory ran out.

    A row or an image that met such an error is not bad: read again, it may be good.
    """
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OF_THE_MACHINE)
