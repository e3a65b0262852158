"""Make a tiny language model that writes conversations about drawn images and rates answers, and a run to serve it.

    make writer        after make demo: minutes, on the CPU

It stands for the large language model of ``medcap instruct generate`` and of ``test_chat``'s judge, so that the whole
line can be seen without a network: docs/instruct.md shows its commands. The writer learns from text alone, in the very
prompts that these commands send. As large models do, it gives away here and there that it has read a caption, and
refuses now and then. Writes ``OUT/llm``, ``OUT/run`` (for ``medcap serve``) and ``OUT/examples.json``, which has no
worked examples: it needs none, and its context is short.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from medcap.checkpoints.hf_llama_writer import write_hugging_face_llama
from medcap.datasets.phantoms.records import OPTIONS, PHRASINGS, Phantom, choose, make_phantom, text_records
from medcap.datasets.published.llava_med_chat import figure_context
from medcap.demo.first_weights import give_induction_heads
from medcap.demo.language import answer_accuracy, teach_language, tokenizer_texts
from medcap.demo.tokenizer import train_tiktoken_file
from medcap.evaluation.judges.rating_prompt import PUBLISHED, SWAPPED, rating_prompt
from medcap.files import write_json
from medcap.instruct.figures import Figure
from medcap.instruct.prompts import conversation_style, figure_words
from medcap.models.tokenizers import llama3_tokenizer
from medcap.pipeline.run import run_words
from medcap.scoring.question import Answer, Question

ARCHITECTURE = {
    "vocab_size": 1280,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 4,
    "embed_dim": 128,
    "intermediate_dim": 320,
    "max_seq_len": 1024,
}
_SPECIAL_TOKENS = 256
_SEED = 31
_DESCRIBE = "Describe the following image in detail."
_LEADS = ("According to the caption, it is", "As described in the text, it is")
_REFUSAL = "I cannot tell from the caption."


def main() -> None:
    """Teach the writer, and train nothing else."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/writer"), help="folder to write")
    parser.add_argument("--reading-steps", type=int, default=700, help="steps that teach to read, with short prompts")
    parser.add_argument("--steps", type=int, default=200, help="steps with the whole prompts")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    examples = options.out / "examples.json"
    write_json(examples, {"generate": [], "rewrite": []})
    system = conversation_style(mentions=True, examples=examples).turns[0].content
    _teach(options.out / "llm", system, options.reading_steps, options.steps)
    _make_run(options.out)


def conversation_record(phantom: Phantom, system: str, stream: np.random.Generator) -> dict[str, Any]:
    """Return a figure and the conversation that the writer learns to write about it."""
    figure = Figure(str(phantom.index), "", phantom.caption)
    turns = []
    for kind in ("modality", *stream.permutation([name for name in OPTIONS if name != "modality"])[:2]):
        value = phantom.attributes[kind]
        form = stream.random()
        if form < 0.05:
            answer = _REFUSAL
        elif form < 0.15:
            answer = f"{choose(stream, _LEADS)} {value}."
        else:
            answer = value
        turns.append(f"User: {PHRASINGS[kind][0]}\n\nAssistant: {answer}")
    return _record(system, figure_words(figure, mentions=True), "\n\n".join(turns))


def rating_record(phantom: Phantom, other: Phantom, stream: np.random.Generator) -> dict[str, Any]:
    """Return a rating prompt and the scores that the writer learns to give: two points off for each wrong word."""
    wrong = [name for name in OPTIONS if stream.random() < 0.25]
    said = Phantom(**{**vars(phantom), **{name: getattr(other, name) for name in wrong}})
    if stream.random() < 0.5:
        question, reference, prediction = choose(stream, PHRASINGS["finding"]), phantom.kind, said.kind
        mistakes = 3 * (phantom.kind != said.kind)
    else:
        question, reference, prediction = _DESCRIBE, phantom.caption, said.caption
        mistakes = sum(phantom.attributes[name] != said.attributes[name] for name in OPTIONS)
    context = figure_context(
        {
            "fig_label": f"Figure {phantom.index % 100}",
            "fig_caption": phantom.caption,
            "in_text_mention": [{"tokens": f"The figure shows a {phantom.modality} ."}],
        }
    )
    row = Question("", messages=(), references=(reference,), meta={"context": context}, words=question)
    order = choose(stream, (PUBLISHED, SWAPPED))
    scores = ["10", str(max(1, 10 - 2 * mistakes))]
    scores = scores if order == PUBLISHED else scores[::-1]
    reply = f"{' '.join(scores)}\n{'Both answers agree.' if not mistakes else 'One answer has mistakes.'}"
    return _record("", rating_prompt(Answer(row, prediction), order), reply)


def records(count: int, system: str, seed: int, ratings: bool = True) -> list[dict[str, Any]]:
    """Return prompts with their replies: conversations, and between them ratings."""
    found = []
    for index in range(count):
        stream = np.random.default_rng((seed, index))
        phantom = make_phantom(seed, index)
        if ratings and index % 2:
            found.append(rating_record(phantom, make_phantom(seed, count + index), stream))
        else:
            found.append(conversation_record(phantom, system, stream))
    return found


def _record(system: str, asked: str, reply: str) -> dict[str, Any]:
    turns = [("system", system)] if system else []
    turns += [("human", asked), ("gpt", reply)]
    return {"id": "", "conversations": [{"from": role, "value": text} for role, text in turns]}


def _teach(folder: Path, system: str, reading_steps: int, steps: int) -> None:
    short = [*text_records(reading_steps * 8, _SEED), *records(reading_steps * 8, "", _SEED, ratings=False)]
    whole = records(steps * 8, system, 2 * _SEED)
    file = folder.parent / "tokenizer.model"
    texts = tokenizer_texts([*whole[:500], *short[::20]])
    train_tiktoken_file(texts, ARCHITECTURE["vocab_size"] - _SPECIAL_TOKENS, file)
    tokenizer = llama3_tokenizer(str(file))
    architecture = ARCHITECTURE | {"vocab_size": tokenizer.vocab_size}
    reader = teach_language(
        short,
        tokenizer,
        architecture,
        reading_steps,
        seed=_SEED,
        prepare=lambda decoder: give_induction_heads(decoder, _SEED),
    )
    accuracy = answer_accuracy(reader, tokenizer, text_records(300, _SEED + 1))
    print(f"reads descriptions in text: {accuracy:.1%} of held-out answers right", flush=True)
    decoder = teach_language(whole, tokenizer, architecture, steps, 8, _SEED, learning_rate=1e-3, decoder=reader)
    shutil.rmtree(folder, ignore_errors=True)
    write_hugging_face_llama(folder, decoder, architecture, file)
    write_json(folder.parent / "architecture.json", architecture)
    file.unlink()


def _make_run(out: Path) -> None:
    """Train a tower for one step: a server wants the folder of a run."""
    shutil.rmtree(out / "run", ignore_errors=True)
    architecture = json.loads((out / "architecture.json").read_text(encoding="utf-8"))
    overrides = {
        **{f"llm.{name}": value for name, value in architecture.items()},
        "output_dir": out / "run",
        "checkpointer.checkpoint_dir": out / "llm",
        "tokenizer.path": out / "llm/original/tokenizer.model",
        "epochs": 1,
        "max_steps_per_epoch": 1,
    }
    words = ["tune", "run", "medcap/recipes/full_finetune_single_device", "--config", "medcap/tiny/single_device"]
    run_words(words + [f"{key}={value}" for key, value in overrides.items()], "the writer")


if __name__ == "__main__":
    main()
