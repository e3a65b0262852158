"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something that the user can fix: the message is one line that names the key, file or row and the remedy.

    Programs started by ``tune run`` or ``medcap`` print the message without a traceback and exit with status 2.
    """


class WordsError(UserError):
    """Words that a tokenizer, or its chat template, cannot take."""


class TooManyPixelsError(UserError):
    """An image is larger than its reader takes; the reader adds the key of the limit."""
