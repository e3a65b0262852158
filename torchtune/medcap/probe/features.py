"""One vector an image from each of several encoders; every image is read once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medcap.data.images.reader import ImageReader
from medcap.errors import UserError, is_of_the_machine
from medcap.models.preprocess import ImageTransform, TileTransform
from medcap.plurals import none_of
from medcap.probe.encoders import Encoder
from medcap.probe.examples import Example
from medcap.threads import reading_threads

BATCH_SIZE = 64
_MAX_THREADS = 16
_AHEAD = 2  # batches that are read while one is encoded


@dataclass(frozen=True)
class Features:
    """Features of images.

    Attributes:
        values: one for each encoder: ``[n, d]`` float32, zeros for an image that could not be read.
        problems: place of each such image -> why.
    """

    values: list[np.ndarray]
    problems: dict[int, str]


class NoneReadable(UserError):
    """No image can be read.

    Args:
        told: the message.
        problems: number of each image -> why.
    """

    def __init__(self, told: str, problems: dict[int, str]) -> None:
        super().__init__(told)
        self.problems = problems


def encode(
    examples: Sequence[Example],
    encoders: Sequence[Encoder],
    reader: ImageReader,
    batch_size: int = BATCH_SIZE,
    label: str = "images",
) -> Features:
    """Encode images.

    Args:
        examples: any; an image that occurs twice is read once.
        encoders: at least one.
        reader: opens the paths.
        batch_size: images that are encoded together.
        label: label of the progress bar.

    Returns:
        Their features, in the order of ``examples``.

    Raises:
        NoneReadable: if no image can be read.
        UserError: if an encoder gives numbers that are not finite.
    """
    paths = list(dict.fromkeys(example.path for example in examples if example.path is not None))
    transforms = [encoder.preprocess.transform() for encoder in encoders]
    rows: list[list[np.ndarray]] = [[] for _ in encoders]
    positions: dict[Path, int] = {}
    unreadable: dict[Path | None, str] = {}
    bar = tqdm(total=len(paths), desc=label, unit=" images", delay=1, mininterval=1)
    with bar, reading_threads(_MAX_THREADS) as threads:
        for batch in _read_ahead(paths, transforms, reader, threads, batch_size):
            pixels = []
            for path, found in batch:
                if isinstance(found, str):
                    unreadable[path] = found
                else:
                    positions[path] = len(positions)
                    pixels.append(found)
            if pixels:
                for number, encoder in enumerate(encoders):
                    output = encoder(torch.stack([own[number] for own in pixels]))  # [b, d]
                    if not output.isfinite().all():
                        raise UserError(f"{encoder.name} gives numbers that are not finite: are its weights damaged?")
                    rows[number].append(output.numpy())
            bar.update(len(batch))
    if not positions:
        reason = next(iter([*unreadable.values(), *(e.problem for e in examples if e.problem)]), "there are none")
        told = f"{none_of(len(examples), label.removesuffix('s'), label)} can be read; the first: {reason}"
        raise NoneReadable(told, {n: e.problem or unreadable[e.path] for n, e in enumerate(examples)})
    problems = {
        position: example.problem or unreadable[example.path]
        for position, example in enumerate(examples)
        if example.path is None or example.path in unreadable
    }
    return Features([_in_order(np.concatenate(own), examples, positions) for own in rows], problems)


def _in_order(values: np.ndarray, examples: Sequence[Example], positions: dict[Path, int]) -> np.ndarray:
    ordered = np.zeros((len(examples), values.shape[1]), dtype=np.float32)
    for row, example in enumerate(examples):
        if example.path in positions:
            ordered[row] = values[positions[example.path]]
    return ordered


def _read_ahead(
    paths: Sequence[Path],
    transforms: Sequence[ImageTransform | TileTransform],
    reader: ImageReader,
    threads: ThreadPoolExecutor,
    batch_size: int,
) -> Iterator[list[tuple[Path, list[Tensor] | str]]]:
    waiting: deque[list[tuple[Path, Future[list[Tensor] | str]]]] = deque()
    left = iter(paths)
    while True:
        while len(waiting) <= _AHEAD and (batch := list(islice(left, batch_size))):
            waiting.append([(path, threads.submit(_read, path, transforms, reader)) for path in batch])
        if not waiting:
            return
        yield [(path, future.result()) for path, future in waiting.popleft()]


def _read(path: Path, transforms: Sequence[ImageTransform | TileTransform], reader: ImageReader) -> list[Tensor] | str:
    """Return the image as each encoder takes it, or why it cannot be read."""
    try:
        image = reader.open(path, keep_grey=True)
        return [transform(image) for transform in transforms]
    except UserError as error:
        return str(error)
    except Exception as error:  # a decoder may raise anything; one file must not end a run over a million
        if is_of_the_machine(error):
            raise
        return f"image {path} cannot be read: {type(error).__name__}: {error}"
