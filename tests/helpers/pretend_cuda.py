"""A pretend GPU: tensors in the CPU's memory that say ``cuda:0``, for tests of CUDA code without a card.

A product of a pretend tensor and a host tensor fails as on a GPU, and so does NumPy on one. What a GPU would be given
is counted: launched kernels, copies from and to the host, and the times that the host waits. The numbers are those of
the CPU's kernels, so results can be compared exactly. Nothing is compiled; FlexAttention is computed under the mask
that its block mask stands for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._python_dispatch import return_and_correct_aliasing

from helpers.pretend_graph import Graph, capturing, count, counts, repeatable
from helpers.pretend_stream import Event, Stream, current_device, on_device, set_device, wait_for_all
from medcap.checkpoints import tensor_tree
from medcap.modules import frozen_layer

GPU = torch.device("cuda", 0)
aten = torch.ops.aten
# Their output's size is not known before they have run.
_WAITING = {aten.nonzero, aten.masked_select, aten.equal, aten.unique_consecutive, aten._unique2, aten.unique_dim}
_WAITING |= {aten._local_scalar_dense, aten.repeat_interleave}
_LAUNCH_NOTHING = {aten.detach, aten.alias, aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty}
_LAUNCH_NOTHING |= {aten.new_empty_strided, aten._unsafe_view, aten._reshape_alias, aten.lift_fresh}
_INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
# A view with a bit that says "conjugate" or "negate". Below the dispatch the CPU's kernels do not ask for the bit, so
# the numbers are written out; a GPU does so in the product that follows.
_LAZY = {aten._conj: torch.conj_physical, aten._neg_view: torch.neg}
# One kernel each on a GPU, and so many of their backward pass.
_FUSED = {functional.scaled_dot_product_attention: 3, functional.rms_norm: 1}

# What autocast computes in the lower precision and in float32; their backward passes get what the forward pass had.
_LOWERED = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution, aten.convolution_backward}
_RAISED = {aten.native_layer_norm, aten.native_layer_norm_backward}


class PretendTensor(Tensor):
    """A tensor that says it is on the GPU; ``inner`` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendTensor:
        # On the meta device for torch: its engine then looks for no driver.
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device="meta"
        )
        made.inner = inner
        return made

    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"PretendTensor({self.inner!r})"

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def record_stream(self, stream: Any) -> None:
        count("record_stream")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = dict(kwargs or {}), func._overloadpacket
        host: list[Tensor] = []
        given = _map((args, kwargs), lambda value: value.inner if _is_pretend(value) else host.append(value) or value)
        if any(value.dim() for value in host) and packet is not aten.copy_:
            # A GPU takes indices from the host, by a copy; anything else of the host's is an error.
            indices = args[1] if packet in _INDEXING and _is_pretend(args[0]) else ()
            if not all(any(value is index for index in indices) for value in host if value.dim()):
                raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got cuda:0 and cpu")
            count("copies to device")
        if packet in _INDEXING:
            count("waits", any(index is not None and index.dtype == torch.bool for index in args[1]))
        to_host = packet is aten._to_copy and torch.device(kwargs.get("device") or GPU).type == "cpu"
        if kwargs.get("device") is not None:
            given[1]["device"] = torch.device("cpu")
        if packet is aten.copy_ and _is_pretend(args[0]) != _is_pretend(args[1]):
            to_host = not _is_pretend(args[0])
            count("copies to host" if to_host else "copies to device")
            count("waits", to_host and not (len(args) > 2 and args[2]))
        elif to_host:
            count("copies to host")
            count("waits")
        elif packet in _LAZY or (packet not in _LAUNCH_NOTHING and not func.is_view):
            count("kernels")
        count("waits", packet in _WAITING)
        if packet in _LAZY:
            return PretendTensor(_LAZY[packet](given[0][0]))
        given = _as_autocast(packet, given)
        if packet is aten.where:
            # A number of autograd's own formulas, where it is 0: torch has made a tensor of it, on the meta device.
            given = _map(given, lambda value: torch.zeros((), dtype=value.dtype) if value.is_meta else value)
        out = repeatable(_scaled_product if packet is aten._scaled_mm else func, *given)
        if to_host:
            return args[0] if packet is aten.copy_ else out
        if packet is aten._local_scalar_dense:
            return out
        return return_and_correct_aliasing(func, args, kwargs, _map(out, PretendTensor))


def _as_autocast(packet: Any, given: Any) -> Any:
    """Return the arguments of an operation in the precision that autocast gives them."""
    floats: set[torch.dtype] = set()
    _map(given, lambda value: floats.add(value.dtype) if value.is_floating_point() else None)
    # Autograd's formulas keep what they were given; autocast's casts, which come before, are not in them.
    backward = torch._C._current_graph_task_id() >= 0 and floats == {torch.float32, torch.bfloat16}
    if not (backward or torch.is_autocast_enabled("cuda")) or packet not in _LOWERED | _RAISED:
        return given
    dtype = torch.bfloat16 if packet in _LOWERED else torch.float32
    return _map(given, lambda value: value.to(dtype) if value.is_floating_point() else value)


def _scaled_product(
    rows: Tensor,
    columns: Tensor,
    row_scale: Tensor,
    column_scale: Tensor,
    bias: None,
    result_scale: None,
    out_dtype: torch.dtype,
    use_fast_accum: bool,
) -> Tensor:
    """Multiply numbers of 8 bits as the hardware does, which takes a scale for each row."""
    assert rows.is_contiguous() and columns.t().is_contiguous(), "row by row, column by column"
    assert len(rows) and rows.shape[1] % 16 == 0 and columns.shape[1] % 16 == 0
    return ((rows.float() @ columns.float()) * row_scale * column_scale).to(out_dtype)


def _reading(name: str) -> Callable[[PretendTensor], Any]:
    def read(tensor: PretendTensor) -> Any:
        count("waits")
        return getattr(tensor.inner.detach(), name)()

    return read


for _name in ("tolist", "item", "__bool__", "__int__", "__float__", "__index__"):
    setattr(PretendTensor, _name, _reading(_name))


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Callable[..., Tensor], num_backward: int, *tensors: Any) -> Tensor:
        count("kernels")
        ctx.num_backward = num_backward
        ctx.inputs = [_inner(one).detach().requires_grad_(one.requires_grad) for one in tensors]
        with torch.enable_grad():
            ctx.output = repeatable(call, ctx.inputs, {})
        return PretendTensor(ctx.output.detach())

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        count("kernels", ctx.num_backward)
        wanted = [one for one in ctx.inputs if one.requires_grad]
        found = iter(torch.autograd.grad(ctx.output, wanted, gradients[0].inner))
        return None, None, *(PretendTensor(next(found)) if one.requires_grad else None for one in ctx.inputs)


class _Mode(TorchFunctionMode):
    """What torch decides by a tensor's device before it dispatches."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        kwargs.pop("pin_memory", None)
        own = bool(args) and _is_pretend(args[0])
        if func is torch.Tensor.pin_memory:
            return args[0].clone()
        if func in (torch.Tensor.to, torch.Tensor.cuda):
            return _moved(func, *args, **kwargs)
        if func is torch.Tensor.__setitem__ and own:
            return _set_item(*args)
        if func is torch.Tensor.__getitem__ and own:
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            return func(args[0], tuple(_index(part) for part in parts))
        if func is torch.where and own and len(args) > 1:
            # torch would make a tensor of a number, on the meta device, where it has no value.
            args = (
                args[0],
                *(one if isinstance(one, Tensor) else PretendTensor(torch.tensor(one)) for one in args[1:]),
            )
        if func in _FUSED and own:
            return _fused(func, *args, **kwargs)
        if _is_gpu(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
            count("copies to device" if func in (torch.tensor, torch.as_tensor) else "kernels")
            return _map(
                repeatable(func, args, kwargs), lambda value: value if _is_pretend(value) else PretendTensor(value)
            )
        return func(*args, **kwargs)


def _moved(func: Any, tensor: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Any:
    if func is torch.Tensor.cuda:
        args, kwargs = (GPU,), {}
    if args and isinstance(args[0], Tensor):  # to the device and dtype of another tensor
        args, kwargs = (), {"device": args[0].device, "dtype": args[0].dtype, **kwargs}
    device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
    if device is None or not _is_gpu(device) or tensor.device.type == "meta":
        with torch._C.DisableTorchFunctionSubclass():
            return tensor.to(*args, copy=copy, **kwargs)
    if _is_pretend(tensor):
        return tensor if dtype is None and not copy else tensor.to(dtype or tensor.dtype, copy=copy)
    count("copies to device")
    return PretendTensor(tensor.detach().to(dtype or tensor.dtype, copy=True))


def _index(part: Any) -> Any:
    if not isinstance(part, list):
        return part
    count("copies to device")
    return PretendTensor(torch.tensor(part, dtype=torch.int64))


def _set_item(tensor: PretendTensor, index: Any, value: Any) -> None:
    parts = index if isinstance(index, tuple) else (index,)
    if isinstance(value, Tensor) and value.dim() and not _is_pretend(value):
        raise RuntimeError("Expected all tensors to be on the same device, but an assignment got cuda:0 and cpu")
    for part in parts:
        on_host = isinstance(part, list) or (isinstance(part, Tensor) and part.dim() > 0 and not _is_pretend(part))
        count("copies to device", on_host)
        count("waits", isinstance(part, Tensor) and part.dtype == torch.bool)
    learns = tensor.requires_grad or (isinstance(value, Tensor) and value.requires_grad)
    assert not (learns and torch.is_grad_enabled()), "an assignment to a part of a tensor has no gradient here"
    count("kernels")
    tensor.inner[_map(index, _inner)] = _inner(value)


def _fused(func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Call a function whose arguments hold tensors anywhere as one kernel."""
    leaves = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if not all(map(_is_pretend, leaves)):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func.__name__} got cuda:0 and cpu")

    def call(*tensors: Tensor) -> Tensor:
        given = iter(tensors)
        own = [next(given) if isinstance(value, Tensor) else value for value in args]
        return func(*own, **{name: next(given) if isinstance(v, Tensor) else v for name, v in kwargs.items()})

    return _Fused.apply(call, _FUSED[func], *leaves)  # type: ignore[return-value]


def create_mask(mask_mod: Any, rows: int | None, heads: int | None, queries: int, keys: int, device: Any) -> Tensor:
    """Compute a mask as ``create_mask`` does, without its vmap: that makes indices of its own, on the meta device."""
    sizes = (rows or 1, heads or 1, queries, keys)
    indices = [
        torch.arange(size, device=device).view(*(size if axis == own else 1 for axis in range(4)))
        for own, size in enumerate(sizes)
    ]
    return mask_mod(*indices).expand(sizes)


def _flex(query: Tensor, key: Tensor, value: Tensor, block_mask: Any, enable_gqa: bool = False, **_: Any) -> Tensor:
    with _uncounted():
        mask = create_mask(block_mask.mask_mod, len(query), None, query.shape[2], key.shape[2], query.device)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=enable_gqa)


def _is_pretend(value: Any) -> bool:
    return isinstance(value, PretendTensor)


def _is_gpu(device: Any) -> bool:
    return device is not None and not isinstance(device, int) and torch.device(device).type == "cuda"


def _inner(value: Any) -> Any:
    return value.inner if _is_pretend(value) else value


def _map(value: Any, function: Callable[[Any], Any]) -> Any:
    """Return nested tuples, lists and dicts with every tensor replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple | list):
        return type(value)(_map(item, function) for item in value)
    if isinstance(value, dict):
        return {key: _map(item, function) for key, item in value.items()}
    return value


@contextlib.contextmanager
def _uncounted() -> Iterator[None]:
    before = counts.copy()
    yield
    counts.clear()
    counts.update(before)


_CUDA = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": current_device,
    "set_device": set_device,
    "device": on_device,
    "get_device_capability": lambda *_: (9, 0),
    "is_bf16_supported": lambda *_, **__: True,
    "get_device_name": lambda *_: "pretend",
    "synchronize": lambda *_: wait_for_all(),
    "max_memory_allocated": lambda *_: 0,
    "reset_peak_memory_stats": lambda *_: None,
    "mem_get_info": lambda *_: (140 << 30, 141 << 30),
    "empty_cache": lambda: None,
    "get_rng_state": lambda *_: torch.get_rng_state(),
    "set_rng_state": lambda *_: None,
    "is_current_stream_capturing": lambda: False,
    "CUDAGraph": Graph,
    "graph": capturing,
    "Stream": Stream,
    "Event": Event,
    "current_stream": Stream,
    "stream": lambda stream: contextlib.nullcontext(),
}


@contextlib.contextmanager
def pretend_cuda() -> Iterator[torch.device]:
    """Have one GPU of this pretence, in all threads that start meanwhile too.

    Yields:
        The GPU. ``counts`` is set to 0, and holds what was counted since.
    """
    run = threading.Thread.run
    recompute = checkpoint._run_fn_with_dynamo_disabled
    plain = tensor_tree._is_plain

    def run_with_mode(thread: threading.Thread) -> None:
        with _Mode():
            run(thread)

    def recompute_with_mode(*args: Any, **kwargs: Any) -> Any:
        # The engine of the backward pass knows no mode.
        with _Mode():
            return recompute(*args, **kwargs)

    with contextlib.ExitStack() as patches:
        for name, value in _CUDA.items():
            patches.enter_context(mock.patch.object(torch.cuda, name, value))
        for owner, name, value in (
            (threading.Thread, "run", run_with_mode),
            (checkpoint, "_run_fn_with_dynamo_disabled", recompute_with_mode),
            (torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda self: None),
            (tensor_tree, "_is_plain", lambda tensor: _is_pretend(tensor) or plain(tensor)),
            (frozen_layer, "_flex", lambda: _flex),
        ):
            patches.enter_context(mock.patch.object(owner, name, value))
        counts.clear()
        set_device(GPU)
        patches.enter_context(_Mode())
        yield GPU
