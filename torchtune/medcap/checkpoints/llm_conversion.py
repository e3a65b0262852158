"""Names and layouts of an LLM's tensors: a checkpoint's own against torchtune's, by torchtune's converters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torchtune.models import convert_weights
from torchtune.models.gemma.rms_norm import GemmaRMSNorm
from torchtune.models.llama3_1 import Llama3ScaledRoPE
from torchtune.models.phi3 import Phi3RotaryPositionalEmbeddings, phi3_hf_to_tune, phi3_tune_to_hf
from torchtune.models.qwen2 import Qwen2RotaryPositionalEmbeddings, qwen2_hf_to_tune, qwen2_tune_to_hf
from torchtune.modules import RotaryPositionalEmbeddings, TransformerDecoder

from medcap.checkpoints.llm_architecture import describe
from medcap.errors import UserError
from medcap.models.decoders.transformers_model import Decoder, TransformersDecoder

StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class Conversion:
    """Both directions between a checkpoint's tensors and a decoder's.

    Attributes:
        to_decoder: checkpoint name -> tensor into torchtune name -> tensor. Works on any part of a checkpoint, so one
            tensor at a time; the results may be views of what went in.
        to_checkpoint: the inverse, for a whole state dict; on meta tensors it gives the names and shapes to expect.
        output: the checkpoint's name of the output projection.
        embedding: the checkpoint's name of the embedding table.
        one_to_one: each tensor of a checkpoint is one of the decoder.
    """

    to_decoder: Callable[[StateDict], StateDict]
    to_checkpoint: Callable[[StateDict], StateDict]
    output: str
    embedding: str
    one_to_one: bool = False

    def expected(self, decoder: Decoder) -> dict[str, tuple[int, ...]]:
        """Return the checkpoint names and shapes of a decoder's tensors.

        Raises:
            UserError: if the decoder has a tensor that no such checkpoint can hold.
        """
        try:
            tensors = self.to_checkpoint(decoder.state_dict())
        except Exception as error:  # torchtune raises a bare Exception for a name that it does not know
            raise UserError(f"llm._component_: the decoder has weights that no checkpoint holds: {error}") from error
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def meta_conversion(decoder: TransformerDecoder) -> Conversion:
    """Meta's ``consolidated.*.pth`` names.

    Raises:
        UserError: if the decoder is not one of Meta's.
    """
    layer: Any = decoder.layers[0]
    if not isinstance(layer.attn.pos_embeddings, RotaryPositionalEmbeddings | Llama3ScaledRoPE) or isinstance(
        layer.sa_norm, GemmaRMSNorm
    ):
        raise UserError(
            "checkpointer.checkpoint_dir: consolidated.*.pth files hold Llama models, and llm._component_ names another"
            " family: point to its Hugging Face safetensors folder"
        )
    return Conversion(
        convert_weights.meta_to_tune, convert_weights.tune_to_meta, "output.weight", "tok_embeddings.weight"
    )


def hugging_face_conversion(decoder: TransformerDecoder) -> Conversion:
    """Hugging Face's names for the decoder's family, which is recognised by its modules.

    The family decides whether query and key rows are permuted (Hugging Face rotates half against half, torchtune's
    Llama neighbour against neighbour) and whether projections are fused (Phi-3).

    Raises:
        UserError: if the decoder's rotary positions are not torchtune's, or for Gemma 2.
    """
    shape = describe(decoder)
    layer: Any = decoder.layers[0]
    rope = layer.attn.pos_embeddings
    heads = {"num_heads": shape.num_heads, "num_kv_heads": shape.num_kv_heads, "dim": shape.embed_dim}
    if isinstance(rope, Phi3RotaryPositionalEmbeddings):
        forward, back = partial(phi3_hf_to_tune, **heads), phi3_tune_to_hf
    elif isinstance(rope, Qwen2RotaryPositionalEmbeddings):
        forward, back = partial(qwen2_hf_to_tune, **heads), partial(qwen2_tune_to_hf, **heads)
    elif isinstance(rope, RotaryPositionalEmbeddings | Llama3ScaledRoPE):
        # Only Gemma 2 norms what leaves attention, too.
        if isinstance(getattr(layer, "sa_scale", None), GemmaRMSNorm):
            raise UserError(
                "llm._component_: torchtune's Gemma 2 caps hidden states instead of logits and mixes up two norms, so"
                " it is not the model of those weights; use a Gemma 1, Llama, Qwen 2.5, Mistral or Phi-3 builder"
            )
        heads["head_dim"] = shape.head_dim
        forward, back = partial(convert_weights.hf_to_tune, **heads), partial(convert_weights.tune_to_hf, **heads)
    else:
        raise UserError(
            f"llm._component_: rotary positions of type {type(rope).__name__} are not known; use a torchtune builder"
        )
    return Conversion(forward, back, "lm_head.weight", "model.embed_tokens.weight")


# Where models of several modalities have their language model: in files of transformers 4, and of 5.
_LANGUAGE_PREFIXES = ("", "language_model.", "model.language_model.")


def transformers_conversion(names: Collection[str]) -> Conversion:
    """Return the names of transformers' own decoder: those of the files but for a prefix.

    Args:
        names: of the files' tensors.

    Raises:
        UserError: if no name is that of an embedding table.
    """
    embedding = "model.embed_tokens.weight"
    for prefix in _LANGUAGE_PREFIXES:
        # transformers 5 puts the text part's layers where "model." was, and its head at the top.
        inner = f"{prefix}model." if prefix != "model.language_model." else prefix
        head = "lm_head." if f"{prefix}lm_head.weight" not in names else f"{prefix}lm_head."
        if f"{inner}embed_tokens.weight" in names:
            break
    else:
        raise UserError(f"checkpointer.checkpoint_dir holds no language model of transformers: {embedding} is missing")

    def to_decoder(tensors: StateDict) -> StateDict:
        return {_moved(name, ((inner, "model."), (head, "lm_head."))): tensor for name, tensor in tensors.items()}

    def to_checkpoint(tensors: StateDict) -> StateDict:
        return {_moved(name, (("model.", inner), ("lm_head.", head))): tensor for name, tensor in tensors.items()}

    return Conversion(to_decoder, to_checkpoint, f"{head}weight", f"{inner}embed_tokens.weight", one_to_one=True)


def _moved(name: str, prefixes: Sequence[tuple[str, str]]) -> str:
    return next((new + name.removeprefix(old) for old, new in prefixes if name.startswith(old)), name)


def conversion_for(decoder: Decoder, kind: str, names: Collection[str] = ()) -> Conversion:
    """Return the conversion for a decoder and a kind of checkpoint.

    Args:
        decoder: built, weights or not.
        kind: "hugging_face" or "meta".
        names: of the checkpoint's tensors; only transformers' own decoder asks for them.

    Raises:
        UserError: if the checkpoint is of a kind that cannot hold the decoder.
    """
    if isinstance(decoder, TransformersDecoder):
        if kind == "meta":
            raise UserError(
                "checkpointer.checkpoint_dir: consolidated.*.pth files are not transformers': point to the folder of"
                " safetensors files"
            )
        return transformers_conversion(names)
    return {"hugging_face": hugging_face_conversion, "meta": meta_conversion}[kind](decoder)


def is_rotary_table(name: str) -> bool:
    """Return whether a tensor of a checkpoint is a precomputed rotary table, which torchtune computes itself."""
    return name == "rope.freqs" or name.endswith("rotary_emb.inv_freq")


def concatenation_dim(pieces: list[tuple[int, ...]], expected: tuple[int, ...]) -> int | None:
    """Return how tensor-parallel pieces make one tensor.

    Meta splits wq, wk, wv, w1, w3 and the output by rows, wo and w2 by columns, the embeddings by columns in Llama 2
    and by rows in Llama 3, and repeats the norms; the shapes of the pieces show which.

    Args:
        pieces: shape of the tensor in each file, in file order.
        expected: shape of the whole.

    Returns:
        The dimension along which to concatenate, or None if each piece is the whole.

    Raises:
        ValueError: if the pieces do not make the whole; the message says the shapes.
    """
    if all(piece == expected for piece in pieces):
        return None
    for dim in range(len(expected)):
        fits = all(
            len(piece) == len(expected) and piece[:dim] == expected[:dim] and piece[dim + 1 :] == expected[dim + 1 :]
            for piece in pieces
        )
        if fits and len(pieces) > 1 and sum(piece[dim] for piece in pieces) == expected[dim]:
            return dim
    found = list(pieces[0]) if len(pieces) == 1 else " + ".join(str(list(piece)) for piece in pieces)
    raise ValueError(f"has shape {found}, expected {list(expected)}")
