"""Lessons with rows instead of text: bags of words at one place, which is what image tokens come to hold.

A tower cannot write sentences. It can say at the token where a lesion lies what it is and where its edges are, all at
once. So the language model is also taught to read such rows, before it is frozen: a row is the sum of a thing's name
and of a word for each edge, beside rows of noise. The words of edges are no tokens: there is one for every place,
between the pixels too, and near places have similar words.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchtune.models.llama3 import Llama3Tokenizer
from torchtune.modules import TransformerDecoder

from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.row_layouts import read_record
from medcap.datasets.phantoms.records import conversation
from medcap.demo.box_language import SIDE, Boxes, question_and_answer, random_edges, random_scene
from medcap.modules.label_loss import IGNORE_INDEX

_LONGEST = 64  # tokens of a conversation behind its rows
_NOISE, _LOUDNESS = 0.7, (0.4, 0.9)  # of rows that say nothing, and of those that say something
_TYPES = ("box", "box", "box", "boxes", "absent")


class BoxRows:
    """Makes lessons with rows; the same arguments give the same lessons.

    Args:
        tokenizer: of the language model.
        width: d of its embeddings.
        rows: image tokens of an image.
        batch_size: conversations of a lesson.
        seed: of the words of edges and of the lessons.
    """

    def __init__(self, tokenizer: Llama3Tokenizer, width: int, rows: int, batch_size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._tokenizer = tokenizer
        self._chat = ChatTokenizer(copy.copy(tokenizer), num_image_tokens=rows)
        self._rows, self._batch_size, self._seed = rows, batch_size, seed
        self._frequencies = 4 * math.pi * torch.randn(width // 2, generator=generator) / SIDE
        self._phases = 2 * math.pi * torch.rand(width // 2, generator=generator)
        self._turns = torch.stack(
            [torch.linalg.qr(torch.randn(width, width, generator=generator))[0] for _ in range(4)]
        )

    def loss(self, decoder: TransformerDecoder, step: int) -> Tensor:
        """Return the mean loss of the answers of lesson number ``step``."""
        stream = np.random.default_rng([self._seed, step])
        made = [
            self._conversation(1_000_000 + self._seed, step * self._batch_size + n, stream)
            for n in range(self._batch_size)
        ]
        length = max(len(tokens) for tokens, _, _ in made)
        tokens = torch.zeros(len(made), length, dtype=torch.int64)
        labels = torch.full((len(made), length), IGNORE_INDEX)
        for number, (ids, targets, _) in enumerate(made):
            tokens[number, : len(ids)] = torch.tensor(ids)
            labels[number, : len(targets)] = torch.tensor(targets)
        seen = tokens == self._chat.image_token_id  # [B, S]
        hidden = decoder.tok_embeddings(tokens.masked_fill(seen, 0))
        rows = torch.stack([self._image_rows(decoder, boxes, stream) for _, _, boxes in made])  # [B, K, d]
        hidden = hidden.masked_scatter(seen[..., None], rows)
        for layer in decoder.layers:
            hidden = layer(hidden)
        output = decoder.output(decoder.norm(hidden))  # [B, S, V]
        return functional.cross_entropy(
            output[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX
        )

    def _conversation(self, seed: int, index: int, stream: np.random.Generator) -> tuple[list[int], list[int], Boxes]:
        """Return tokens and labels of a conversation about what the rows say, and what they say."""
        scene = random_scene(seed, index, (1, 2))
        boxes: Boxes = {lesion.kind: random_edges(stream) for lesion in scene.lesions}
        question, answer = question_and_answer(scene, boxes, _TYPES[stream.integers(len(_TYPES))], stream)
        record = {"image": "rows", "conversations": conversation(f"<image>\n{question}", answer)}
        messages = read_record(record, Path("rows"), index, lambda name, _: Path(name)).messages
        chat = self._chat.tokenize(messages)
        return chat.tokens, chat.labels, boxes

    def _image_rows(self, decoder: TransformerDecoder, boxes: Boxes, stream: np.random.Generator) -> Tensor:
        """Return the rows of one image, ``[K, d]``: each thing at a place of its own."""
        width = 2 * len(self._frequencies)
        noise = stream.standard_normal((self._rows, width)) * stream.uniform(0, _NOISE, (self._rows, 1))
        rows = list(torch.from_numpy(noise).float())
        places = stream.permutation(self._rows)[: len(boxes)].tolist()
        for place, (name, edges) in zip(places, boxes.items(), strict=True):
            said = torch.tensor(edges) + torch.from_numpy(stream.uniform(-0.5, 0.5, 4)).float()
            waves = said[:, None] * self._frequencies + self._phases  # [4, d / 2]
            words = math.sqrt(2) * torch.cat([waves.cos(), waves.sin()], dim=1)  # [4, d]
            token = self._tokenizer.encode(f" {name}", add_bos=False, add_eos=False)[0]
            bag = decoder.tok_embeddings.weight[token] + torch.einsum("fd,fde->e", words, self._turns)
            rows[place] = rows[place] + stream.uniform(*_LOUDNESS) * bag
        return torch.stack(rows)
