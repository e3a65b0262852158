"""Tower + projector + a frozen torchtune decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint
from torchtune.modules import TransformerDecoder

from medcap.data.batch import Batch
from medcap.models.projectors.base import Projector
from medcap.models.towers.base import Tower
from medcap.modules.attention_mask import packed_attention_mask
from medcap.modules.injection import inject_image_rows
from medcap.modules.label_loss import label_loss
from medcap.modules.trimmed_layer import layer_at


class VisionLanguageModel(nn.Module):
    """A language model that sees: image rows stand in its input where placeholders were.

    Args:
        tower: the vision encoder.
        projector: tower output -> K rows of the decoder's width for each image.
        decoder: any torchtune decoder; it is frozen here and never changed.
        image_token_id: the id at image positions; it may lie outside the decoder's vocabulary.

    Attributes:
        checkpoint_layers: compute the decoder's layers again in the backward pass instead of keeping their
            activations; a frozen decoder's step then costs half as much again.
        always_backward: run every layer's backward pass even where a batch has nothing that trains. Layers that are
            sharded over processes fetch their weights together, so a process that left one out would stop them all.
    """

    def __init__(self, tower: Tower, projector: Projector, decoder: TransformerDecoder, image_token_id: int) -> None:
        super().__init__()
        self.tower = tower
        self.projector = projector
        self.decoder = decoder.requires_grad_(False).eval()
        self.image_token_id = image_token_id
        self.num_image_tokens = projector.num_image_tokens
        self.checkpoint_layers = False
        self.always_backward = False

    @property
    def dtype(self) -> torch.dtype:
        """The decoder's."""
        return next(self.decoder.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The decoder's."""
        return next(self.decoder.parameters()).device

    def train(self, mode: bool = True) -> VisionLanguageModel:
        """Switch the vision side; the decoder stays as it is for use."""
        super().train(mode)
        self.decoder.eval()
        return self

    def encode_images(self, images: Tensor) -> Tensor:
        """Look at images.

        The trained parts keep fp32 weights; where the decoder runs in a lower precision they compute in it too.

        Args:
            images: ``[N, 3, H, W]`` uint8, as the tower's preprocessing gives them.

        Returns:
            ``[N, K, d]`` in the decoder's dtype.
        """
        pixels = self.tower.preprocess.normalize(images)
        low_precision = self.dtype != torch.float32
        with torch.autocast(images.device.type, dtype=self.dtype if low_precision else None, enabled=low_precision):
            encode = self.tower.encode_patches if self.projector.takes == "patches" else self.tower.encode_pooled
            return self.projector(encode(pixels)).to(self.dtype)

    def embed(self, tokens: Tensor, image_rows: Tensor | None, image_positions: Tensor | None) -> Tensor:
        """Embed tokens and put the image rows in.

        Args:
            tokens: ``[R, S]`` int64.
            image_rows: ``[N, K, d]`` or None.
            image_positions: ``[N * K]`` int64 flat positions or None.

        Returns:
            ``[R, S, d]``.
        """
        words = tokens.masked_fill(tokens == self.image_token_id, 0)
        embeddings = self.decoder.tok_embeddings(words)  # [R, S, d]
        if image_rows is None or image_positions is None:
            return embeddings
        return inject_image_rows(embeddings, image_rows, image_positions)

    def hidden(self, embeddings: Tensor, mask: Tensor | BlockMask | None, input_pos: Tensor) -> Tensor:
        """Run the decoder's layers.

        Args:
            embeddings: ``[R, S, d]``.
            mask: ``[R, S, keys]`` bool or a block mask; None is causal.
            input_pos: ``[R, S]`` int64.

        Returns:
            ``[R, S, d]`` before the final norm.
        """
        states = embeddings
        for layer in self.decoder.layers:
            if self.checkpoint_layers and torch.is_grad_enabled():
                states = checkpoint(layer, states, mask=mask, input_pos=input_pos, use_reentrant=False)
            else:
                states = layer(states, mask=mask, input_pos=input_pos)
        return states

    def hidden_at(self, embeddings: Tensor, places: Tensor, mask: Tensor | None, input_pos: Tensor) -> Tensor:
        """Run the decoder's layers where only a few hidden states are wanted, without gradients.

        Args:
            embeddings: ``[R, S, d]``.
            places: ``[n]`` int64 flat positions.
            mask: ``[R, S, keys]`` bool; None is causal.
            input_pos: ``[R, S]`` int64.

        Returns:
            ``[n, d]`` before the final norm.
        """
        states = embeddings
        *layers, last = self.decoder.layers
        for layer in layers:
            states = layer(states, mask=mask, input_pos=input_pos)
        return layer_at(last, states, places, mask, input_pos)

    def unembed(self, hidden: Tensor) -> Tensor:
        """Final norm and output head: ``[..., d] -> [..., V]`` float32."""
        return self.decoder.unembed(hidden)

    def loss(self, batch: Batch, chunk_size: int = 1024) -> Tensor:
        """Summed cross-entropy over the batch's labels, a float32 scalar."""
        image_rows = None if batch.images is None else self.encode_images(batch.images)  # [N, K, d]
        embeddings = self.embed(batch.tokens, image_rows, batch.image_positions)  # [R, S, d]
        if self.always_backward and torch.is_grad_enabled() and not embeddings.requires_grad:
            embeddings.requires_grad_()
        # FlexAttention compiles for every new shape; rows that differ from step to step keep the boolean mask.
        flex = batch.static_shape and batch.tokens.is_cuda
        mask = packed_attention_mask(batch.document, batch.branch, flex)
        hidden = self.hidden(embeddings, mask, batch.input_pos)
        return label_loss(hidden, batch.labels, self.unembed, chunk_size)
