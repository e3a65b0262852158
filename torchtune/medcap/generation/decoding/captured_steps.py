"""Decoding steps captured as CUDA graphs: the host launches a whole step at once, instead of each of its kernels."""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medcap.errors import UserError
from medcap.generation.decoding.kv_cache import KVCache
from medcap.generation.decoding.step import DecodingStep
from medcap.models.decoders.transformers_model import TransformersDecoder
from medcap.models.lora_experts import RoutedAdapters
from medcap.models.vision_language_model import VisionLanguageModel

# [Contract] torch allows one capture at a time in a process, and whatever waits for the whole GPU meanwhile, in any
# thread, ends it: so does the beginning of another capture, and code that is tuned as it is compiled.
_capturing = threading.Lock()
# A stream of its own for all graphs of one cache, handed on when these are gone. On a new stream, cuBLAS takes up to
# 32 MiB and keeps them; graphs that share a stream share them too, and the end of one can end the others'
# (https://github.com/pytorch/pytorch/issues/193402).
_free_streams: defaultdict[torch.device, list[torch.cuda.Stream]] = defaultdict(list)


@dataclass(frozen=True)
class _Captured:
    """A graph, the tensors that it reads, and the one that it writes."""

    graph: torch.cuda.CUDAGraph
    tokens: Tensor
    positions: Tensor
    hidden: Tensor


class CapturedSteps:
    """Steps over one cache, each captured when it is first needed.

    A graph repeats kernels with their addresses: it holds for one number of rows, one number of slots and the
    components that are on, and as long as the cache keeps its memory.

    Args:
        step: makes a step.
        cache: attached to the model's decoder, for a number of rows that stays.
    """

    def __init__(self, step: DecodingStep, cache: KVCache) -> None:
        self._step, self._cache = step, cache
        self._captured: dict[Hashable, _Captured] = {}
        self._memory: Any = None  # one pool: a step's numbers are read before the next one runs
        self._stream: torch.cuda.Stream | None = None

    def hidden(self, tokens: Tensor, positions: Tensor, used: int) -> Tensor:
        """Run one token of every row through the layers.

        Args:
            tokens: ``[R]`` int64.
            positions: ``[R]`` int64.
            used: slots of each row that are looked at.

        Returns:
            ``[R, d]`` before the final norm; the next step with as many slots writes over it.
        """
        components = self._step.model.components
        key = (len(tokens), used, tuple(name for name, component in components.items() if component.enabled))
        captured = self._captured.get(key)
        if captured is None:
            hidden, self._captured[key] = self._capture(tokens.clone(), positions.clone(), used)
            return hidden
        captured.tokens.copy_(tokens)
        captured.positions.copy_(positions)
        captured.graph.replay()
        return captured.hidden

    def _capture(self, tokens: Tensor, positions: Tensor, used: int) -> tuple[Tensor, _Captured]:
        device = self._step.model.device
        # A thread has a device of its own, the first one unless it is told otherwise; so does a new stream.
        with _capturing, torch.cuda.device(device):
            stream, current = self._own_stream(device), torch.cuda.current_stream(device)
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                # Before a capture everything must be compiled, and libraries must have the memory that they work in.
                # A step writes its keys and values into their own slots, so it may run again.
                self._run(tokens, positions, used)
                found = self._run(tokens, positions, used)
            current.wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            try:
                # Where a capture fails, torch leaves its stream the current one.
                with (
                    torch.cuda.stream(current),
                    # Other threads prepare images and may use the GPU meanwhile.
                    torch.cuda.graph(graph, self._memory, stream, capture_error_mode="thread_local"),
                ):
                    hidden = self._run(tokens, positions, used)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise UserError(f"cuda_graphs: a decoding step cannot be captured ({reason}): leave it out") from error
            self._memory = graph.pool()
            return found, _Captured(graph, tokens, positions, hidden)

    def _own_stream(self, device: torch.device) -> torch.cuda.Stream:
        if self._stream is None:
            free = _free_streams[device]
            self._stream = free.pop() if free else torch.cuda.Stream(device)
            weakref.finalize(self, free.append, self._stream)
        return self._stream

    def _run(self, tokens: Tensor, positions: Tensor, used: int) -> Tensor:
        return self._step.hidden(tokens, self._cache.step(positions, used), positions)


def check_capture(model: VisionLanguageModel) -> None:
    """Check that a model's steps can be captured.

    Raises:
        UserError: if they cannot.
    """
    check_capture_device(model.device)
    if isinstance(model.decoder, TransformersDecoder):
        raise UserError("cuda_graphs: transformers runs this language model, with a cache of its own; leave it out")
    if any(isinstance(component, RoutedAdapters) for component in model.components.values()):
        raise UserError("cuda_graphs: a router chooses among llm_lora.experts in each step; leave it out")


def check_capture_device(device: torch.device) -> None:
    """Raise UserError unless steps can be captured on a device."""
    if device.type != "cuda":
        raise UserError(f"cuda_graphs needs a CUDA device, and the model is on {device}: leave it out")
