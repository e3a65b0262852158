"""The model's part in a step of decoding, compiled or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medcap.compiler import compile_for_own_threads, no_compiler
from medcap.models.decoders.transformers_model import TransformersDecoder
from medcap.models.vision_language_model import VisionLanguageModel

_FEWEST_SLOTS, _MOST_SIZES = 256, 8
# Of one function: kinds of layers, numbers of rows and of slots. Beyond torch's own limit of 8 nothing is compiled.
_MOST_GRAPHS = 256


class DecodingStep:
    """One token of every row through the decoder, over its attached cache, and the words that may follow.

    Layers of one kind share what is compiled, so that compiling takes the same time whatever their number.

    Args:
        model: model in eval mode.
        compiled: compile it, for steps that keep their shapes.
        captured: steps become CUDA graphs, which keep their shapes too.

    Attributes:
        static: whether few shapes are wanted.
    """

    def __init__(self, model: VisionLanguageModel, compiled: bool, captured: bool = False) -> None:
        self.model, self.compiled, self.captured = model, compiled, captured
        self.static = compiled or captured
        self._unembed_one: Callable[[Tensor], Tensor] | None = None
        if not compiled:
            return
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS)
        compile_for_own_threads()
        self._layers: Callable[[Tensor, Tensor, Tensor], Tensor] = torch.compile(model.hidden, dynamic=False)
        self._layer: Callable[..., Any] = torch.compile(_run_layer, dynamic=False)
        if model.device.type == "cpu":
            self._unembed_one = torch.compile(model.unembed, dynamic=False)

    def hidden(self, tokens: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Run one token of every row through the layers.

        Args:
            tokens: ``[R]`` int64.
            mask: ``[R, 1, used]`` bool.
            positions: ``[R]`` int64.

        Returns:
            ``[R, d]`` before the final norm.

        Raises:
            UserError: if it is to be compiled on a CPU where there is no C++ compiler.
        """
        return _compiling(self._run, tokens, mask, positions) if self.compiled else self._run(tokens, mask, positions)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of all words: ``[R, d] -> [R, V]`` float32.

        Raises:
            UserError: as :meth:`hidden`.
        """
        # Torch's own product is the fastest for more rows.
        if self._unembed_one is None or len(hidden) > 1:
            return self.model.unembed(hidden)
        return _compiling(self._unembed_one, hidden)

    def slots_read(self, needed: int, capacity: int) -> int:
        """Return how many slots of each row a step looks at.

        Args:
            needed: those that hold something.
            capacity: those that there are.

        Returns:
            ``needed``; if shapes are static, one of at most eight numbers from there on.
        """
        if not self.static:
            return needed
        return next(slots for slots in self.sizes(capacity) if slots >= needed)

    def sizes(self, capacity: int) -> list[int]:
        """Return the numbers of slots that a step of static shapes may look at, the smallest first."""
        size = max(_FEWEST_SLOTS, -(-capacity // _MOST_SIZES))
        return [*range(size, capacity, size), capacity]

    def _run(self, tokens: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        states, positions = self.model.embed(tokens[:, None], None, None), positions[:, None]  # [R, 1, d]
        # Asked for in each step: runs that are served together come to share one decoder.
        decoder = self.model.decoder
        if not self.compiled:
            return self.model.hidden(states, mask, positions)[:, 0]  # [R, d]
        if isinstance(decoder, TransformersDecoder):
            return self._layers(states, mask, positions)[:, 0]  # [R, d]; they are called by its own model
        for layer in decoder.layers:
            states = self._layer(layer, states, mask, positions)
        return states[:, 0]  # [R, d]


def _run_layer(layer: nn.Module, states: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    return layer(states, mask=mask, input_pos=positions)


def _compiling(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return function(*tensors)
    except BackendCompilerFailed as error:
        if not isinstance(error.inner_exception, InvalidCxxCompiler):
            raise
        raise no_compiler() from error
