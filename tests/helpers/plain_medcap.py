"""Evaluation as medcap 2024 does it, written plainly: one request at a time, no cache, the image encoded for each.

Only the model, the prompts and the limits are shared with the package; see custom_generate_func.py, lines 137-191 and
301-330, of myeongkyunkang/medcap at c8910f0.
"""

from __future__ import annotations

from collections.abc import Sequence

from helpers.tiny_generation import plain_answer, plain_score
from medcap.evaluation.prompting.medcap_2024 import MedcapMode
from medcap.evaluation.prompting.options import MappedOption
from medcap.generation.generator import Generator
from medcap.generation.request import Request
from medcap.legacy.prompt import answer_limit, room_for_description
from medcap.scoring.question import Question

MODE = "no_cond_desc"


def plain_no_cond_desc(
    generator: Generator, rows: Sequence[Question], max_new_tokens: int
) -> list[tuple[str, str, str]]:
    """Description, answer and letter for each row; an image is described once, as medcap does in this mode."""
    method = MedcapMode(MODE)
    mapping = MappedOption(method)
    chat = generator.tokenizer
    described: dict[str, str] = {}
    results = []
    for row in rows:
        key = str(row.image)
        if key not in described:
            turns = method.mode.description_turns(row)
            limit = room_for_description(chat, turns, row.text, generator.max_seq_len, max_new_tokens)
            # medcap generates one token even where there is no room.
            described[key] = chat.decode(plain_answer(generator, Request(turns), max(1, limit)))
        asked = Request(method.mode.answer_turns(row, described[key]))
        answer = chat.decode(plain_answer(generator, asked, answer_limit(max_new_tokens)))
        mapped = mapping._request(row, {"error": None, "prediction": answer}, ())
        letter = chat.decode(plain_answer(generator, mapped, mapped.max_new_tokens))
        results.append((described[key], answer, letter))
    return results


def plain_option_text(generator: Generator, rows: Sequence[Question]) -> list[str]:
    """The option with the highest summed log-probability: one forward pass an option, the image encoded for each."""
    choices = []
    for row in rows:
        sums = [plain_score(generator, Request(row.messages), option, end_of_turn=True)[0] for option in row.options]
        choices.append(row.options[sums.index(max(sums))])
    return choices
