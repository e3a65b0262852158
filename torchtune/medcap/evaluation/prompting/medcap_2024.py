"""medcap 2024's ways of asking (``vqa_type``): describe the image, then answer with the description in view.

Message sequences and token limits are those of custom_generate_func.py, lines 137-191, of myeongkyunkang/medcap at
c8910f0. Differences, all on the safe side: special tokens are real ones unless ``prompt_format`` says otherwise; the
descriptions are kept on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torchtune.data import Message

from medcap.errors import UserError
from medcap.evaluation.answering import Engine, Entry, PredictionStore, collect, generated
from medcap.evaluation.prompting.base import Way
from medcap.generation.prompt import user_message
from medcap.generation.request import Request
from medcap.legacy.prompt import answer_limit, room_for_description
from medcap.scoring.question import Question

MODES = ("no_cond_desc", "no_cond_desc_no_image", "cond_desc", "cond_desc_no_image", "omit")
NOTHING_SAID = "..."
NOT_DESCRIBED = "its image was not described: the descriptions' file says why"
_DESCRIBE = "Describe the image."
_DESCRIBE_TO_ANSWER = "Describe the image to answer the question: {question}"


class MedcapMode(Way):
    """One ``vqa_type``.

    Args:
        mode: one of ``MODES``. ``no_cond_desc`` describes each image once; ``cond_desc`` describes it for each
            question; ``..._no_image`` answers from the description alone; ``omit`` leaves the description out.
    """

    file = "predictions"

    def __init__(self, mode: str) -> None:
        self.name = mode  # type: ignore[misc]
        self.conditional = mode.startswith("cond_desc")
        self.describes = mode != "omit"
        self.shows_image = not mode.endswith("_no_image")
        description = "user: {image}\nassistant: {description}"
        if self.conditional:
            asked = f"assistant: {NOTHING_SAID}\nuser: {_DESCRIBE_TO_ANSWER}"
            description = f"user: {{image}}\n{asked}\nassistant: {{description}}"
        said = "{description}" if self.describes else NOTHING_SAID
        first = "{image}" if self.shows_image else _DESCRIBE
        answer = f"user: {first}\nassistant: {said}\nuser: {{question}}\nassistant: "
        self.template = f"{description}\n---\n{answer}" if self.describes else answer

    def ask(self, rows: Sequence[Question], engine: Engine, store: PredictionStore) -> list[Entry]:
        """See :meth:`Way.ask`."""
        descriptions = self._descriptions(rows, engine, store) if self.describes else [NOTHING_SAID] * len(rows)
        limit = answer_limit(engine.max_new_tokens)
        requests = [
            NOT_DESCRIBED if description is None else Request(self._answer_turns(row, description), row.id, limit)
            for row, description in zip(rows, descriptions, strict=True)
        ]

        def make(index: int, result: object) -> Entry:
            return {**generated(result), "description": descriptions[index]}

        with store.open(self.file, {"asked": self.name}) as file:
            return collect(rows, requests, engine.generate, make, file)

    def last_request(self, row: Question, entry: Entry) -> Request | None:
        """See :meth:`Way.last_request`."""
        return Request(self._answer_turns(row, entry.get("description") or ""), row.id)

    def _descriptions(self, rows: Sequence[Question], engine: Engine, store: PredictionStore) -> list[str | None]:
        """The description for each row; None where there is none."""
        wanted: dict[str, Request] = {}
        about: dict[str, Question] = {}
        keys = []
        for row in rows:
            key = (row.id if self.conditional else str(row.image)) if row.image and not row.problem else ""
            keys.append(key)
            if key and key not in wanted:
                turns = self._description_turns(row)
                # Without a condition, the first question about an image limits what is said of it for all.
                wanted[key] = Request(turns, key, self._limit(row, turns, engine))
                about[key] = Question(key, turns, ("",), row.image)
        if not wanted:
            return [NOTHING_SAID if row.problem is None else None for row in rows]
        name = "descriptions_for_questions" if self.conditional else "descriptions"
        # Exchanged images are described as they are: a control takes what there is.
        with replace(store, suffix="").open(name) as file:
            said: dict[str, str | None] = {}
            if store.suffix and not self.conditional:
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
            said[key] if key else (NOTHING_SAID if row.problem is None else None)
            for key, row in zip(keys, rows, strict=True)
        ]

    def _limit(self, row: Question, turns: list[Message], engine: Engine) -> int:
        if engine.tokenizer is None:
            return engine.max_new_tokens
        try:
            return room_for_description(engine.tokenizer, turns, row.text, engine.max_seq_len, engine.max_new_tokens)
        except UserError:
            # A question that cannot be tokenized is its row's failure, which comes when it is asked.
            return engine.max_new_tokens

    def _description_turns(self, row: Question) -> list[Message]:
        image = user_message(row.images[0])
        if not self.conditional:
            return [image]
        return [image, _assistant(NOTHING_SAID), user_message(text=_DESCRIBE_TO_ANSWER.format(question=row.text))]

    def _answer_turns(self, row: Question, description: str) -> list[Message]:
        shown = user_message(row.images[0]) if self.shows_image and row.images else user_message(text=_DESCRIBE)
        return [shown, _assistant(description), user_message(text=row.text)]


def _assistant(text: str) -> Message:
    return Message(role="assistant", content=text, masked=False)
