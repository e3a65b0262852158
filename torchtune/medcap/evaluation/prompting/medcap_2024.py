"""medcap 2024's prompt methods (``vqa_type``), in two stages; see :mod:`medcap.legacy.modes` for their turns.

Token limits are those of custom_generate_func.py, lines 137-191, of myeongkyunkang/medcap at c8910f0. Differences, all
on the safe side: special tokens are real ones unless ``prompt_format`` says otherwise; the descriptions are kept on
disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torchtune.data import Message

from medcap.errors import UserError
from medcap.evaluation.answering import Engine, Entry, PredictionStore, collect, generated
from medcap.evaluation.prompting.base import PromptMethod
from medcap.generation.request import Generation, Request
from medcap.legacy.modes import MODES, NOTHING_SAID, Mode
from medcap.legacy.prompt import answer_limit, room_for_description
from medcap.scoring.question import Question

__all__ = ["MODES", "NOTHING_SAID", "NOT_DESCRIBED", "MedcapMode"]

NOT_DESCRIBED = "its image was not described: the descriptions' file says why"


class MedcapMode(PromptMethod):
    """One ``vqa_type``.

    Args:
        name: one of ``MODES``.
    """

    file = "predictions"

    def __init__(self, name: str) -> None:
        self.mode = Mode(name)
        self.name = name  # type: ignore[misc]
        self.template = self.mode.template

    def ask(self, questions: Sequence[Question], engine: Engine, store: PredictionStore) -> list[Entry]:
        described = self.mode.describes
        said = self._descriptions(questions, engine, store) if described else [NOTHING_SAID] * len(questions)
        limit = answer_limit(engine.sampling.max_new_tokens)
        requests = [
            NOT_DESCRIBED
            if description is None
            else Request(self.mode.answer_turns(question, description), question.id, limit)
            for question, description in zip(questions, said, strict=True)
        ]

        def make(index: int, result: Generation) -> Entry:
            return {**generated(result), "description": said[index]}

        with store.open(self.file, {"asked": self.name}) as file:
            return collect(questions, requests, engine.generate, make, file)

    def last_request(self, question: Question, entry: Entry) -> Request | None:
        return Request(self.mode.answer_turns(question, entry.get("description") or ""), question.id)

    def _descriptions(self, questions: Sequence[Question], engine: Engine, store: PredictionStore) -> list[str | None]:
        """Return the description for each question; None where there is none."""
        conditional = self.mode.conditional
        wanted: dict[str, Request] = {}
        about: dict[str, Question] = {}
        keys = []
        for question in questions:
            images = [] if question.problem else question.images
            key = question.id if conditional and images else "\n".join(map(str, images))
            keys.append(key)
            if key and key not in wanted:
                turns = self.mode.description_turns(question)
                # Without a condition, the first question about an image limits what is said of it for all.
                wanted[key] = Request(turns, key, _limit(question, turns, engine))
                about[key] = Question(key, turns, ("",))
        if not wanted:
            return [NOTHING_SAID if question.problem is None else None for question in questions]
        name = "descriptions_for_questions" if conditional else "descriptions"
        # Exchanged images are described as they are: a control takes what there is.
        with replace(store, suffix="").open(name) as file:
            said: dict[str, str | None] = {}
            if store.suffix and not conditional:
                # Another question is the first one about an image there, and would set another limit.
                entries = [entry for entry in file.rows.values() if entry["question_id"] in wanted]
                said |= {entry["question_id"]: entry["prediction"] for entry in entries if not entry["error"]}
            left = [key for key in wanted if key not in said]
            if left:
                entries = collect(
                    [about[key] for key in left],
                    [wanted[key] for key in left],
                    engine.generate,
                    lambda _, result: generated(result),
                    file,
                )
                said |= {
                    key: None if entry["error"] else entry["prediction"]
                    for key, entry in zip(left, entries, strict=True)
                }
        # A control takes the images away: then there is nothing to describe.
        return [
            said[key] if key else (NOTHING_SAID if question.problem is None else None)
            for key, question in zip(keys, questions, strict=True)
        ]


def _limit(question: Question, turns: Sequence[Message], engine: Engine) -> int:
    generator, most = engine.generator, engine.sampling.max_new_tokens
    try:
        return room_for_description(generator.tokenizer, turns, question.text, generator.max_seq_len, most)
    except UserError:
        # A question that cannot be tokenized is its row's failure, which comes when it is asked.
        return most
