"""How a program ends: one line for an error, reported once, on one process and under torchrun."""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from medcap.errors import UserError

T = TypeVar("T")

# Set to 1, every error is printed with its whole traceback before its line.
TRACEBACK_VARIABLE = "MEDCAP_TRACEBACK"
INTERRUPTED = 130
_BROKEN_PIPE = 141  # 128 and SIGPIPE's number, which a shell reports for programs that the signal ends
_SECRETS = ("api_key", "api-key")
_MOST_LETTERS = 500
_TORCHAO_NOTICE = "Skipping import of cpp extensions"
# How long a process that has nothing to tell stays: torchrun ends all others as soon as the first one has ended, and
# the one that has the message might not have got round to it.
QUIET_SECONDS = 3.0


def run_program(work: Callable[[], T], command: Sequence[str]) -> T:
    """Run a whole program; whatever ends it is one line for the user, or nothing.

    Args:
        work: the program.
        command: its command line, for the line about an error that was not foreseen.

    Returns:
        The result of ``work``.

    Raises:
        SystemExit: with status 2 for a mistake of the user's, 1 for an error that was not foreseen, 130 for Ctrl-C and
            141 where the output is not read any more (``medcap ls | head``).
    """
    try:
        try:
            return work()
        finally:
            # Here, because Python's own flush at exit would print a traceback if the reader has closed the pipe.
            sys.stdout.flush()
    except UserError as error:
        stop(error)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            _drop_output()
            sys.exit(_BROKEN_PIPE)
        show_traceback()
        report_common(unforeseen(error, shown_command(command)))
        sys.exit(1)


def unforeseen(error: BaseException, doing: str) -> str:
    """Return the one line for an error that no part of the program explains.

    Args:
        error: error as it was raised.
        doing: what the program was doing.

    Returns:
        The error, where in medcap it happened, and how to report it. For an error of the system, such as a full disk,
        the system's own words.
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{doing} cannot go on: {error.strerror}" + (f": {error.filename}" if error.filename else "")
    if isinstance(error, MemoryError):
        return f"{doing} cannot go on: the system's memory is full"
    kind = type(error).__name__
    words = " ".join(_message(error).split()).removeprefix(f"{kind}: ") or "without a message"
    words = words if len(words) <= _MOST_LETTERS else words[:_MOST_LETTERS] + " ..."
    where = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    return (
        f"{doing} ended in an error that was not foreseen: {kind}: {words} ({_location(error)}{where});"
        f" run it again with {TRACEBACK_VARIABLE}=1 and report all that it prints as a fault of medcap"
    )


def _message(error: BaseException) -> str:
    lines = str(error).splitlines()
    if not any("Traceback (most recent call last)" in line for line in lines):
        return str(error)
    # An error of another process holds that one's traceback, which ends in the error itself and its notes.
    end = next((number for number, line in enumerate(reversed(lines)) if line.startswith(" ")), len(lines))
    return " ".join(lines[len(lines) - end :])


def _location(error: BaseException) -> str:
    """Return the innermost of our own lines that the error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}medcap{os.sep}" in frame.filename or "recipes" in frame.filename]
    if not frames:
        return "at an unknown place"
    frame = (own or frames)[-1]
    return f"{'/'.join(Path(frame.filename).parts[-2:])}, line {frame.lineno}"


def shown_command(words: Sequence[str]) -> str:
    """Return a command line as a message may show it: without keys, and on one line."""
    shown: list[str] = []
    hide = False
    for word in words:
        name, sign, _ = word.partition("=")
        secret = name.lstrip("-") in _SECRETS
        shown.append("..." if hide else f"{name}=..." if secret and sign else word)
        hide = secret and not sign
    text = " ".join(" ".join(shown).split())
    return text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS] + " ..."


def show_traceback() -> None:
    """Print the traceback of the error that is being handled, if the user asked for it."""
    if _wants_traceback():
        traceback.print_exc()


def _wants_traceback() -> bool:
    return os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0")


def report(line: str) -> None:
    """Print the line of the error that ends the program, and leave it where torchrun looks for what to print.

    What destructors say afterwards, of what the error left half made, is kept from the user.

    Args:
        line: the error in words.
    """
    if not _wants_traceback():
        sys.unraisablehook = lambda _: None
    line = "medcap: " + " ".join(line.split())
    print(line, file=sys.stderr, flush=True)
    tell_torchrun(line)


def tell_torchrun(line: str) -> None:
    """Leave an error where torchrun looks for what to print at its own end; without torchrun, do nothing.

    Args:
        line: the error in words.
    """
    # torch.distributed.elastic.multiprocessing.errors.ProcessFailure reads this file.
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        details = {"py_callstack": line, "timestamp": str(int(time.time()))}
        Path(file).write_text(json.dumps({"message": {"message": line, "extraInfo": details}}), encoding="utf-8")


def report_common(line: str) -> None:
    """Print an error that the other processes of the run probably meet too: only the first one reports it.

    The others report it only if they still run a while later, because then only they had it.

    Args:
        line: the error in words.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(QUIET_SECONDS)
    report(line)


def stop(error: UserError) -> NoReturn:
    """End the program with the error's one line and status 2."""
    show_traceback()
    report_common(str(error))
    sys.exit(2)


def hide_torchao_notice() -> None:
    """Keep torchao's line about its C++ extensions from users; medcap uses none of them.

    torchao 0.15 is the last version that has what torchtune 0.6.1 imports, and was built before torch 2.11. Its other
    messages stay.
    """
    logger = logging.getLogger("torchao")
    if _is_no_torchao_notice not in logger.filters:
        logger.addFilter(_is_no_torchao_notice)


def _is_no_torchao_notice(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_TORCHAO_NOTICE)


def _output_is_closed() -> bool:
    """Return whether standard output or standard error is a pipe whose reader has closed it."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        try:
            poll.register(stream.fileno(), 0)
        except (OSError, ValueError, AttributeError):  # closed, or not a file at all
            continue
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _drop_output() -> None:
    """Send what is still buffered to nowhere: Python flushes it at its end and would print a traceback."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
