"""Teaches a tiny Llama to read: it learns from text what it will later be shown as images."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchtune.models.llama3 import Llama3Tokenizer
from torchtune.modules import TransformerDecoder
from tqdm import tqdm

from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.row_layouts import ROLES, read_record
from medcap.errors import UserError
from medcap.modules.label_loss import IGNORE_INDEX

_POOL = 50  # batches whose samples are sorted by length together

Example = tuple[list[int], list[int]]  # tokens and labels, both of the same length; labels are not shifted


def teach_language(
    records: Sequence[Mapping[str, Any]],
    tokenizer: Llama3Tokenizer,
    architecture: Mapping[str, Any],
    steps: int = 800,
    batch_size: int = 16,
    seed: int = 0,
    learning_rate: float = 2e-3,
    progress: bool = True,
    prepare: Callable[[TransformerDecoder], None] | None = None,
    other_lessons: Callable[[TransformerDecoder, int], Tensor] | None = None,
    text_every: int = 2,
    decoder: TransformerDecoder | None = None,
) -> TransformerDecoder:
    """Train a small Llama 3.1 decoder on text conversations in the Llama 3 chat format, in fp32 on the CPU.

    The same arguments give the same weights; the caller's random state is left as it was.

    Args:
        records (Sequence[Mapping]): LLaVA's records without images, such as those of
            :func:`medcap.datasets.phantoms.records.text_records`.
        tokenizer (Llama3Tokenizer): turns the conversations into tokens.
        architecture (Mapping): arguments of ``torchtune.models.llama3_1.llama3_1``; ``vocab_size`` defaults to the
            tokenizer's, a ``_component_`` is passed over.
        steps (int): number of optimizer steps.
        batch_size (int): conversations a step.
        seed (int): seed of the weights and of the order of the records.
        learning_rate (float): the highest, after a linear warm-up of a tenth of the steps and before a cosine decay.
        progress (bool): whether to show a progress bar.
        prepare (Callable | None): changes the random weights before they are trained.
        other_lessons (Callable | None): (decoder, step) -> the loss of the other steps, instead of one from records.
        text_every (int): beside other lessons, the steps after which there is one from records again.
        decoder (TransformerDecoder | None): is trained further; None builds one with random weights.

    Returns:
        TransformerDecoder: the trained decoder, in evaluation mode.
    """
    examples = tokenize(records, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = _build(architecture, tokenizer.vocab_size) if decoder is None else decoder.train()
        if prepare is not None:
            prepare(decoder)
        optimizer = torch.optim.AdamW(_groups(decoder), lr=learning_rate, betas=(0.9, 0.98), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
        batches = _batches(examples, batch_size, torch.Generator().manual_seed(seed))
        bar = tqdm(range(steps), desc="language", unit="step", disable=None if progress else True)
        for step in bar:
            if other_lessons is not None and step % text_every:
                loss = other_lessons(decoder, step)
            else:
                loss = _loss(decoder, *next(batches))
            loss.backward()
            nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return decoder.eval()


@torch.inference_mode()
def answer_accuracy(
    decoder: TransformerDecoder,
    tokenizer: Llama3Tokenizer,
    records: Sequence[Mapping[str, Any]],
    batch_size: int = 128,
) -> float:
    """Share of the records whose whole answer, end of turn included, greedy decoding would give.

    One forward pass tells: greedy decoding reproduces an answer exactly when each of its tokens is the likeliest
    one after the true tokens before it.

    Args:
        decoder (TransformerDecoder): the language model.
        tokenizer (Llama3Tokenizer): its tokenizer.
        records (Sequence[Mapping]): LLaVA's records without images.
        batch_size (int): conversations a forward pass.

    Returns:
        float: between 0 and 1.
    """
    examples = sorted(tokenize(records, tokenizer), key=lambda example: len(example[0]))
    right = 0
    for start in range(0, len(examples), batch_size):
        tokens, labels = _pad(examples[start : start + batch_size])
        answered = decoder(tokens)[:, :-1].argmax(-1)  # [B, S - 1]
        targets = labels[:, 1:]
        right += int(((answered == targets) | (targets == IGNORE_INDEX)).all(-1).sum())
    return right / len(examples)


def tokenizer_texts(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a tokenizer for these records should learn from: their words, and the roles in every turn's header.

    Args:
        records (Sequence[Mapping]): LLaVA's records.

    Returns:
        list[str]: one text a turn and one a role name.
    """
    turns = [turn for record in records for turn in record["conversations"]]
    return [turn["value"] for turn in turns] + [ROLES[turn["from"]] for turn in turns]


def tokenize(records: Sequence[Mapping[str, Any]], tokenizer: Llama3Tokenizer) -> list[Example]:
    """Turn text conversations into tokens and labels, as training with images does.

    Args:
        records (Sequence[Mapping]): LLaVA's records without images.
        tokenizer (Llama3Tokenizer): gives the tokens of the Llama 3 chat format; it is left as it was.

    Returns:
        list[tuple]: tokens and labels of one length for each record; labels are -100 except on the assistant's words
        and its end-of-turn token.
    """
    chat_tokenizer = ChatTokenizer(copy.copy(tokenizer), num_image_tokens=1)
    examples = []
    for index, record in enumerate(records):
        chat = chat_tokenizer.tokenize(read_record(record, Path("records"), index, _no_image).messages)
        examples.append((chat.tokens, chat.labels))
    return examples


def _no_image(image: str, _: str | None) -> Path:
    raise UserError(f"a text record names the image {image}")


def _build(architecture: Mapping[str, Any], vocab_size: int) -> TransformerDecoder:
    """Build the decoder with weights from which reading is learnt in hundreds of steps instead of thousands.

    Embeddings have unit variance, matrices 1 / fan-in (those that write to the residual stream less, by the number of
    writers), and the output head begins as the embedding table, so that a word which attention copies is said at once.
    """
    from torchtune.models.llama3_1 import llama3_1

    arguments = {key: value for key, value in architecture.items() if key != "_component_"}
    decoder = llama3_1(**{"vocab_size": vocab_size, **arguments})
    writers = 2 * len(decoder.layers)
    for name, matrix in decoder.layers.named_parameters():
        if matrix.ndim == 2:
            writes = name.endswith(("attn.output_proj.weight", "mlp.w2.weight"))
            nn.init.normal_(matrix, std=(matrix.shape[1] * (writers if writes else 1)) ** -0.5)
    nn.init.normal_(decoder.tok_embeddings.weight)
    with torch.no_grad():
        output: Any = decoder.output
        output.weight.copy_(decoder.tok_embeddings.weight * decoder.tok_embeddings.embedding_dim**-0.5)
    return decoder


def _groups(decoder: TransformerDecoder) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in decoder.parameters() if parameter.ndim >= 2]
    scales = [parameter for parameter in decoder.parameters() if parameter.ndim < 2]
    return [{"params": matrices, "weight_decay": 0.01}, {"params": scales, "weight_decay": 0.0}]


def _rate(step: int, steps: int) -> float:
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _batches(examples: list[Example], batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of samples of similar length, each sample once an epoch but for a rest."""
    size = min(batch_size, len(examples))
    while True:
        order = torch.randperm(len(examples), generator=generator).tolist()
        for start in range(0, len(order), size * _POOL):
            pool = sorted(order[start : start + size * _POOL], key=lambda number: len(examples[number][0]))
            starts = range(0, len(pool) - size + 1, size)
            for turn in torch.randperm(len(starts), generator=generator).tolist():
                yield _pad([examples[number] for number in pool[starts[turn] : starts[turn] + size]])


def _pad(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Pad on the right, where causal attention never looks; tokens and labels [B, S] int64."""
    length = max(len(tokens) for tokens, _ in examples)
    tokens = torch.zeros(len(examples), length, dtype=torch.int64)
    labels = torch.full((len(examples), length), IGNORE_INDEX)
    for row, (ids, targets) in enumerate(examples):
        tokens[row, : len(ids)] = torch.tensor(ids)
        labels[row, : len(targets)] = torch.tensor(targets)
    return tokens, labels


def _loss(decoder: TransformerDecoder, tokens: Tensor, labels: Tensor) -> Tensor:
    logits = decoder(tokens[:, :-1])  # [B, S - 1, V]
    return functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX)
