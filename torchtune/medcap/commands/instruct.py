"""``medcap instruct generate``, ``clean`` and ``rewrite``: instruction data by a language model."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from medcap.commands.arguments import add_image_root, positive, seed
from medcap.errors import UserError

if TYPE_CHECKING:
    from medcap.instruct.asking import Asking
    from medcap.instruct.summary import Summary
    from medcap.language_models.base import LanguageModel

HELP = "make instruction data by a language model: conversations of captions, paragraphs of answers"
_KEY_VARIABLE = "OPENAI_API_KEY"
_CAPTION_COLUMNS = ("id", "image", "caption", "label", "mentions", "domain")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap instruct``.
    """
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    generate = actions.add_parser("generate", help="write a conversation about each figure, from its caption")
    generate.add_argument("source", type=Path, metavar="FILE", help="figures: fig_captions, JSON, JSONL, CSV or TSV")
    for name in _CAPTION_COLUMNS:
        generate.add_argument(f"--{name}-column", default="", metavar="NAME", help=f"column of the {name}")
    generate.add_argument(
        "--no-mentions",
        action="store_true",
        help="give the model the captions alone, without the sentences of the text",
    )
    generate.add_argument("--seed", type=seed, default=0, help="decides where <image> stands in each row (0)")

    rewrite = actions.add_parser("rewrite", help="rewrite the questions and answers of each image into a paragraph")
    rewrite.add_argument("source", type=Path, metavar="FILE", help="rows with conversations, or a row a question")
    for name in ("image", "question", "answer"):
        rewrite.add_argument(f"--{name}-column", default=name, metavar="NAME", help=f"column of the {name} ({name})")
    for action in (generate, rewrite):
        _add_model(action)

    clean = actions.add_parser("clean", help="take out of conversations what shows that the image was not seen")
    clean.add_argument("source", type=Path, metavar="FILE", help="rows with conversations, or LLaVA-Med's replies")
    clean.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    clean.add_argument("--phrases", type=Path, metavar="FILE", help="phrases of your own, in the form of ours")
    clean.add_argument(
        "--similarity",
        type=float,
        default=0.8,
        metavar="S",
        help="leave out a row at least this similar to one before it, 0.5 to 1; 0 keeps all (0.8)",
    )
    clean.add_argument(
        "--test", type=Path, nargs="+", action="extend", default=[], metavar="SET", help="test sets: files or folders"
    )
    add_image_root(clean)
    clean.add_argument("--distance", type=int, default=8, metavar="N", help="bits of 64 that may differ (8)")
    clean.add_argument("--processes", type=positive, metavar="N", help="processes that hash images (one a processor)")
    clean.add_argument("--seed", type=seed, default=0, help="decides where <image> stands in rows of replies (0)")


def run(options: argparse.Namespace) -> None:
    """Do what is asked for.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: for an impossible option, a file that cannot be read, or a model that cannot be asked.
    """
    {"generate": _generate, "rewrite": _rewrite, "clean": _clean}[options.action](options)


def _generate(options: argparse.Namespace) -> None:
    from medcap.instruct.figures import Columns
    from medcap.instruct.generate import generate

    columns = Columns(**{name: getattr(options, f"{name}_column") for name in _CAPTION_COLUMNS})
    _keep_inputs(options)
    model, asking = _model(options), _asking(options)
    mentions = not options.no_mentions
    _show(options, lambda: generate(options.source, columns, model, options.out, asking, mentions, options.seed))


def _rewrite(options: argparse.Namespace) -> None:
    from medcap.instruct.rewrite import AnswerColumns, rewrite

    columns = AnswerColumns(options.image_column, options.question_column, options.answer_column)
    _keep_inputs(options)
    model, asking = _model(options), _asking(options)
    _show(options, lambda: rewrite(options.source, columns, model, options.out, asking))


def _clean(options: argparse.Namespace) -> None:
    from medcap.instruct.clean import CONVERSATIONS, REPORT, CleaningChoices, clean, text
    from medcap.instruct.clean_report import write_page
    from medcap.instruct.leaks import HeldOutSets
    from medcap.instruct.phrases import PHRASES

    if not 0 <= options.distance <= 64:
        raise UserError(f"--distance {options.distance} must be 0 to 64")
    held_out = HeldOutSets(options.test, options.image_root, options.distance, options.processes)
    choices = CleaningChoices(options.phrases or PHRASES, options.similarity, held_out, options.seed)
    done = clean(options.source, options.out, choices)
    print(text(done))
    write_page(done, choices, options.out)
    print(f"{options.out / CONVERSATIONS}, {options.out / REPORT}")


def _show(options: argparse.Namespace, work: Any) -> None:
    from medcap.instruct.rows import CONVERSATIONS

    with _told_when_stopped():
        summary: Summary = work()
    print(summary.text())
    print(options.out / CONVERSATIONS)


@contextlib.contextmanager
def _told_when_stopped() -> Generator[None]:
    """Say what becomes of the replies where Ctrl-C or SIGTERM ends the program; the status is 130 or 143."""

    def stop(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        print("\nmedcap: stopped; replies so far are kept, the same command goes on", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _keep_inputs(options: argparse.Namespace) -> None:
    """See that nothing that is written takes the place of figures, rows or recorded replies."""
    from medcap.files import keep_inputs
    from medcap.instruct.asking import REPLIES
    from medcap.instruct.generate import FAILURES
    from medcap.instruct.rewrite import TEXTS
    from medcap.instruct.rows import CONVERSATIONS

    inputs = [path for path in (options.source, options.recorded, options.examples) if path is not None]
    for name in (REPLIES, CONVERSATIONS, FAILURES, TEXTS):
        keep_inputs("--out", options.out / name, *inputs)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write; a rerun goes on")
    parser.add_argument("--limit", type=positive, metavar="N", help="ask about the first N only")
    parser.add_argument(
        "--examples", type=Path, metavar="FILE", help="worked examples of your own, in the form of ours"
    )
    parser.add_argument("--overwrite", action="store_true", help="ask everything again")
    parser.add_argument("--again", action="store_true", help="ask again where a reply could not be used")
    parser.add_argument("--keep-old", action="store_true", help="keep replies that were made under other settings")
    who = parser.add_argument_group("who writes (one of --model, --checkpoint-dir, --recorded)")
    who.add_argument("--model", metavar="NAME", help="model of an OpenAI-compatible server")
    who.add_argument("--base-url", metavar="URL", help="address of the server (OPENAI_BASE_URL, else OpenAI's)")
    who.add_argument(
        "--api-key-env", default=_KEY_VARIABLE, metavar="NAME", help=f"variable that holds the key ({_KEY_VARIABLE})"
    )
    who.add_argument("--concurrency", type=positive, default=8, metavar="N", help="prompts sent at a time (8)")
    who.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds to wait for a reply (120)")
    who.add_argument("--retries", type=int, default=3, metavar="N", help="further tries of a prompt (3)")
    who.add_argument(
        "--request", metavar="JSON", help="further fields of each request, such as '{\"temperature\": 0.7}'"
    )
    who.add_argument("--checkpoint-dir", type=Path, metavar="FOLDER", help="Hugging Face folder of a chat model")
    who.add_argument("--bits", type=int, choices=(4, 8, 16), default=4, help="bits of its weights (4)")
    who.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    who.add_argument("--batch-size", type=positive, default=16, metavar="N", help="prompts decoded at once (16)")
    who.add_argument("--recorded", type=Path, metavar="FILE", help="replies of an earlier run, by id")
    budget = parser.add_argument_group("limits of all replies in the folder together")
    budget.add_argument("--max-new-tokens", type=positive, default=1024, metavar="N", help="longest reply (1024)")
    budget.add_argument("--max-tokens-total", type=positive, metavar="N", help="tokens of prompts and replies")
    budget.add_argument("--max-cost", type=float, metavar="SUM", help="cost, with both prices")
    for side, what in (("in", "prompts"), ("out", "replies")):
        budget.add_argument(f"--price-{side}", type=float, metavar="PRICE", help=f"price of a million tokens of {what}")


def _asking(options: argparse.Namespace) -> Asking:
    from medcap.instruct.asking import Asking
    from medcap.instruct.budget import Limits
    from medcap.instruct.prompts import EXAMPLES

    for name in ("max_cost", "price_in", "price_out"):
        value = getattr(options, name)
        if value is not None and not 0 <= value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} {value:g} must be a number from 0 on")
    limits = Limits(options.max_tokens_total, options.max_cost, options.price_in, options.price_out)
    examples = options.examples or EXAMPLES
    return Asking(
        limits, options.max_new_tokens, options.limit, examples, options.overwrite, options.keep_old, options.again
    )


def _model(options: argparse.Namespace) -> LanguageModel:
    given = [name for name in ("model", "checkpoint_dir", "recorded") if getattr(options, name) is not None]
    if len(given) != 1:
        named = " and ".join(f"--{name.replace('_', '-')}" for name in given) or "nothing"
        raise UserError(
            "name one that writes: --model NAME of a server, --checkpoint-dir FOLDER of a model on this machine, or"
            f" --recorded FILE ({named} was given)"
        )
    if options.recorded is not None:
        from medcap.language_models.recorded import RecordedReplies

        return RecordedReplies(options.recorded)
    if options.checkpoint_dir is not None:
        from medcap.checkpoints.build_model import choose_device
        from medcap.language_models.local import LocalModel

        device = choose_device(options.device)
        tokens, batch = options.max_new_tokens, options.batch_size
        return LocalModel(options.checkpoint_dir, options.bits, device, max_new_tokens=tokens, batch_size=batch)
    from medcap.language_models.endpoint import Endpoint

    if options.timeout <= 0 or options.retries < 0:
        raise UserError("--timeout must be more than 0, --retries at least 0")
    return Endpoint(
        options.model,
        options.base_url,
        api_key_env=options.api_key_env,
        max_new_tokens=options.max_new_tokens,
        timeout=options.timeout,
        retries=options.retries,
        concurrency=options.concurrency,
        request=_request(options.request),
    )


def _request(text: str | None) -> dict[str, Any] | None:
    from medcap.data.json_text import JsonError, parse_json

    if text is None:
        return None
    try:
        fields = parse_json(text)
    except JsonError as error:
        raise UserError(f"--request is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UserError('--request must be an object of JSON, such as {"temperature": 0.7}')
    return fields
