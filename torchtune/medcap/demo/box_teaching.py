"""Teaches a tiny Llama to read and to say boxes, and writes it as the folder of a language model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torchtune.modules import TransformerDecoder

from medcap.checkpoints.hf_llama_writer import write_hugging_face_llama
from medcap.checkpoints.llm_conversion import hugging_face_conversion
from medcap.datasets.phantoms.records import text_records
from medcap.demo.box_language import SIDE, box_question_records, box_text_records, number_texts
from medcap.demo.box_rows import BoxRows
from medcap.demo.first_weights import give_induction_heads, give_number_line
from medcap.demo.language import answer_accuracy, teach_language, tokenizer_texts
from medcap.demo.tokenizer import train_tiktoken_file
from medcap.errors import UserError
from medcap.files import write_json
from medcap.models.tokenizers import llama3_tokenizer

ASKED = ("box", "kind", "boxes", "presence", "absent")  # types of the held-out questions
_SPECIAL_TOKENS = 256
_TEXT_EVERY = 2  # steps
_FIRST_LESSON, _PRACTICE = 100_000, 12_345  # number of a lesson, seed of text: others than those of the first teaching


def teach_box_language(
    folder: Path,
    architecture: Mapping[str, Any],
    steps: int,
    batch_size: int = 16,
    seed: int = 0,
    learning_rate: float = 1.5e-3,
    image_rows: int = 16,
    questions: int = 200,
    progress: bool = True,
) -> dict[str, float]:
    """Teach a language model to answer questions about boxes in text and in rows, and write it.

    Args:
        folder: to write, beside ``accuracy.json``; an older one is removed.
        architecture: arguments of ``torchtune.models.llama3_1.llama3_1``.
        steps: optimizer steps.
        batch_size: conversations a step.
        seed: of the text and of the weights.
        learning_rate: the highest.
        image_rows: image tokens of an image, which every second step is about.
        questions: held-out questions of each type about two lesions.
        progress: show a progress bar.

    Returns:
        The share of held-out questions whose whole answer is right, by type of question.

    Raises:
        UserError: if the vocabulary is too small for one token a number.
    """
    architecture = {key: value for key, value in architecture.items() if key != "_component_"}
    records = box_text_records((steps + 1) // 2 * batch_size, 2 * seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_name(f"{folder.name}.tokenizer.model")
    # The words of other text about phantoms fill the vocabulary up.
    read = [*records[:1000], *text_records(1000, 2 * seed)]
    texts = [*tokenizer_texts(read), *[text for text in number_texts() for _ in range(50)], *["user\n\n"] * 50]
    train_tiktoken_file(texts, architecture["vocab_size"] - _SPECIAL_TOKENS, file)
    tokenizer = llama3_tokenizer(str(file))
    numbers = {number: tokenizer.encode(str(number), add_bos=False, add_eos=False) for number in range(SIDE + 1)}
    if any(len(tokens) > 1 for tokens in numbers.values()):
        raise UserError(f"llm.vocab_size={architecture['vocab_size']} is too small: every number needs its own token")
    if tokenizer.vocab_size != architecture["vocab_size"]:
        raise UserError(f"llm.vocab_size={architecture['vocab_size']}: the texts make {tokenizer.vocab_size} tokens")

    def prepare(decoder: TransformerDecoder) -> None:
        give_number_line(decoder, {number: tokens[0] for number, tokens in numbers.items()}, seed)
        give_induction_heads(decoder, seed)

    lessons = BoxRows(tokenizer, architecture["embed_dim"], image_rows, batch_size, seed).loss
    decoder = teach_language(
        records, tokenizer, architecture, steps, batch_size, seed, learning_rate, progress, prepare, lessons
    )
    accuracy = _write(folder, decoder, architecture, file, questions, 2 * seed + 1)
    file.unlink()
    return accuracy


def practise_rows(
    taught: Path,
    folder: Path,
    architecture: Mapping[str, Any],
    steps: int,
    batch_size: int = 40,
    seed: int = 0,
    learning_rate: float = 1.5e-3,
    image_rows: int = 16,
    questions: int = 200,
    progress: bool = True,
) -> dict[str, float]:
    """Teach a language model of :func:`teach_box_language` further, mostly in rows, and write it.

    Copying from text is learnt long before reading rows is: what a thing is and four edges stand in one row. Every
    second step is about text again, so that it is not forgotten.

    Args:
        taught: its folder.
        folder: to write, beside ``accuracy.json``; an older one is removed.
        architecture: as it was taught with.
        steps: optimizer steps.
        batch_size: conversations about rows in a step; a third of it about text.
        seed: as it was taught with: it makes the words of edges.
        learning_rate: the highest.
        image_rows: image tokens of an image.
        questions: held-out questions of each type about two lesions.
        progress: show a progress bar.

    Returns:
        As :func:`teach_box_language`.
    """
    architecture = {key: value for key, value in architecture.items() if key != "_component_"}
    file = taught / "original" / "tokenizer.model"
    tokenizer = llama3_tokenizer(str(file))
    from torchtune.models.llama3_1 import llama3_1

    decoder = llama3_1(**architecture)
    tensors = load_file(taught / "model.safetensors")
    decoder.load_state_dict(hugging_face_conversion(decoder).to_decoder(tensors))
    texts = max(1, batch_size // 3)
    # Two batches more than are learnt, as batches leave out a rest.
    records = box_text_records((steps // _TEXT_EVERY + 2) * texts, 2 * seed + _PRACTICE)
    lessons = BoxRows(tokenizer, architecture["embed_dim"], image_rows, batch_size, seed)
    decoder = teach_language(
        records,
        tokenizer,
        architecture,
        steps,
        texts,
        seed + 1,
        learning_rate,
        progress,
        # Those of the first teaching have the numbers below.
        other_lessons=lambda decoder, step: lessons.loss(decoder, _FIRST_LESSON + step),
        text_every=_TEXT_EVERY,
        decoder=decoder,
    )
    return _write(folder, decoder, architecture, file, questions, 2 * seed + 1)


def _write(
    folder: Path, decoder: TransformerDecoder, architecture: dict[str, Any], file: Path, questions: int, seed: int
) -> dict[str, float]:
    """Write the folder of a language model, and the share of held-out questions that it answers."""
    tokenizer = llama3_tokenizer(str(file))
    accuracy = {
        asked: answer_accuracy(decoder, tokenizer, box_question_records(questions, seed, asked)) for asked in ASKED
    }
    shutil.rmtree(folder, ignore_errors=True)
    write_hugging_face_llama(folder, decoder, architecture, file)
    write_json(folder / "accuracy.json", accuracy)
    return accuracy
