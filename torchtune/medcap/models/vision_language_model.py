"""Tower + projector + a frozen torchtune decoder."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint
from torchtune.modules import TransformerDecoder

from medcap.data.batch import TEXT, Batch
from medcap.errors import UserError
from medcap.models.component import EMBEDDING, OUTPUT, Component
from medcap.models.decoders.transformers_model import Decoder, TransformersDecoder
from medcap.models.packed_attention import attention_options, keys_and_values
from medcap.models.projectors.base import Projector
from medcap.models.region_encoders.base import RegionEncoder
from medcap.models.towers.base import Tower
from medcap.modules.added_rows import embed_with_rows
from medcap.modules.attention_mask import packed_attention_mask
from medcap.modules.frozen_functions import rotation_tables
from medcap.modules.frozen_layer import FrozenLayer, freeze_layers, is_frozen
from medcap.modules.injection import inject_image_rows
from medcap.modules.label_loss import label_loss
from medcap.modules.one_row import project

# Most tokens of one pass on a CPU: larger passes do not fit its caches, take more memory, and are not faster.
CPU_PASS_TOKENS = 1536


class VisionLanguageModel(nn.Module):
    """A language model that sees: image tokens replace the placeholders in its input.

    Args:
        tower: the vision encoder.
        projector: tower output -> image tokens of the decoder's width.
        decoder: any torchtune decoder, or one of transformers; it is frozen here and never changed.
        image_token_id: the id at image positions; it may be outside the decoder's vocabulary.
        further: the components other than tower and projector, in the order of ``COMPONENTS``.
        region_token_id: the id at positions of regions; None where no component reads any.

    Attributes:
        components: tower, projector and the further ones, by name.
        loss_terms: names of the terms that ``losses`` returns.
        loss_weights: what terms weigh where the configuration says nothing.
        loss_counts: the term whose count a term is divided by, where it has none of its own.
        reads_patches: whether a component looks at the tower's patch tokens.
        reads_pictures: whether one looks at the pictures themselves.
        own_picture: how images become the pictures of a component that looks at others than the tower; None without.
        checkpointed_layers: how many of the decoder's layers keep no activations; each then costs half as much again.
        always_backward: run every layer's backward pass even where a batch has nothing that trains. Layers that are
            sharded over processes fetch their weights together, so a process that left one out would stop them all.
        compiled: the decoder's layers are compiled, so that rows of one length are better than none with padding.
        frozen_layers: whether all of the decoder's layers support the training pass of ``FrozenLayer``.
    """

    def __init__(
        self,
        tower: Tower,
        projector: Projector,
        decoder: Decoder,
        image_token_id: int,
        further: Sequence[Component] = (),
        region_token_id: int | None = None,
    ) -> None:
        super().__init__()
        self.tower = tower
        self.projector = projector
        if isinstance(decoder, TransformerDecoder):
            freeze_layers(decoder)
        self.decoder = decoder.requires_grad_(False).eval()
        self.frozen_layers = isinstance(decoder, TransformerDecoder) and is_frozen(decoder)
        self.image_token_id, self.region_token_id = image_token_id, region_token_id
        self.num_image_tokens = projector.num_image_tokens
        self.checkpointed_layers = 0
        self.always_backward = False
        self.compiled = False
        self._prompt_prefixes: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        self.further = nn.ModuleList(further)
        parts = self.components.values()
        for component in parts:
            component.attach(self)
        self.loss_terms = (TEXT, *(term for component in parts for term in component.loss_terms))
        self.loss_weights = {term: weight for component in parts for term, weight in component.loss_weights.items()}
        self.loss_counts = {term: other for component in parts for term, other in component.loss_counts.items()}
        self.reads_patches = any(component.reads_patches for component in parts)
        self.reads_pictures = any(component.reads_pictures for component in parts)
        self.own_picture = next(filter(None, (component.own_picture for component in parts)), None)

    @property
    def components(self) -> Mapping[str, Component]:
        """All components by name."""
        further: Any = self.further
        return {component.name: component for component in (self.tower, self.projector, *further)}

    @property
    def region_encoder(self) -> RegionEncoder | None:
        """The component that reads regions; None for a model that reads none."""
        return next((component for component in self.further if isinstance(component, RegionEncoder)), None)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the components that change the language model."""
        return tuple(name for name, component in self.components.items() if component.changes_language_model)

    def check_without(self, names: Collection[str]) -> None:
        """See that :meth:`without` takes these names.

        Raises:
            UserError: if it does not.
        """
        for name in (name for name in names if name not in self.adapters):
            there = "it can do without " + ", ".join(self.adapters) if self.adapters else "it has none to leave out"
            raise UserError(f"without={name}: this model has no such component; {there}")

    @contextmanager
    def without(self, names: Collection[str]) -> Generator[None]:
        """Let the language model compute without some components while the block lasts.

        Args:
            names: components that change the language model; others are refused as in :meth:`check_without`.
        """
        self.check_without(names)
        switched = [self.components[name] for name in names if self.components[name].enabled]
        try:
            for component in switched:
                component.enabled = False
            yield
        finally:
            for component in switched:
                component.enabled = True

    def compile_layers(self, static: bool = True, backend: str = "inductor") -> None:
        """Compile the decoder's layers, except the last one, which computes few positions and others each time.

        Args:
            static: batches have rows of one length, as packed ones do.
            backend: backend of ``torch.compile``.
        """
        self.compiled = True
        for layer in self.decoder.layers[:-1]:
            layer.compile(dynamic=not static, backend=backend)

    @property
    def dtype(self) -> torch.dtype:
        """The decoder's."""
        return next(self.decoder.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The decoder's."""
        return next(self.decoder.parameters()).device

    def train(self, mode: bool = True) -> VisionLanguageModel:
        """Set the mode of the vision side; the decoder stays in evaluation mode."""
        super().train(mode)
        self.decoder.eval()
        return self

    def encode_images(self, images: Tensor) -> Tensor:
        """Return the image tokens of :meth:`encode_with_patches` alone."""
        return self.encode_with_patches(images)[0]

    def encode_with_patches(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Look at images.

        The trained parts keep fp32 weights; where the decoder runs in a lower precision they compute in it too.

        Args:
            images: ``[N, 3, H, W]`` uint8, as the tower's preprocessing returns them.

        Returns:
            ``[n, d]`` in the decoder's dtype: the image tokens of all images, one after the other; and ``[N, T, D]``,
            the tower's patch tokens, None where no component reads them.
        """
        pixels = self.tower.preprocess.normalize(images)
        low_precision = self.dtype != torch.float32
        with torch.autocast(images.device.type, dtype=self.dtype if low_precision else None, enabled=low_precision):
            encode = self.tower.encode_patches if self.projector.takes == "patches" else self.tower.encode_pooled
            seen = encode(pixels)
            rows = self.projector(seen).to(self.dtype).flatten(0, 1)
        return rows, seen if self.reads_patches else None

    def encode_regions(self, patches: Tensor, weights: Tensor) -> Tensor:
        """Return the tokens of regions: ``[Q, K, d]`` in the decoder's dtype; see ``RegionEncoder.forward``."""
        assert self.region_encoder is not None, "the tokenizer refuses regions without one"
        return self.region_encoder(patches, weights).to(self.dtype)

    def embed(self, tokens: Tensor, image_rows: Tensor | None, image_positions: Tensor | None) -> Tensor:
        """Embed tokens and put the image rows in.

        Args:
            tokens: ``[R, S]`` int64.
            image_rows: ``[n, d]`` or None.
            image_positions: ``[n]`` int64 flat positions or None.

        Returns:
            ``[R, S, d]``.
        """
        words = tokens.masked_fill(tokens == self.image_token_id, 0)
        if self.region_token_id is not None:
            words = words.masked_fill(tokens == self.region_token_id, 0)
        table, rows = self.decoder.tok_embeddings, self.added_rows(EMBEDDING)
        embeddings = table(words) if rows is None else embed_with_rows(table, rows, words)  # [R, S, d]
        if image_rows is None or image_positions is None:
            return embeddings
        return inject_image_rows(embeddings, image_rows, image_positions)

    def added_rows(self, name: str) -> Tensor | None:
        """Return the rows of added tokens that follow a table of the language model.

        Args:
            name: ``EMBEDDING`` or ``OUTPUT`` of ``medcap.models.component``.

        Returns:
            ``[n, d]`` fp32; None where there are none, or the language model does without them now.
        """
        further: Any = self.further
        found = (component.added_rows(name) for component in further if component.enabled)
        return next((rows for rows in found if rows is not None), None)

    def cache_prompt_prefix(self, prompt_prefix: tuple[int, ...]) -> None:
        """Compute and keep the keys and values of words that batches will leave out.

        Where processes divide the layers among them, all must call it together.

        Args:
            prompt_prefix: token ids, no image among them; none is nothing to learn.

        Raises:
            ValueError: if the decoder has layers of a kind that cannot continue a prompt prefix.
        """
        if not prompt_prefix or prompt_prefix in self._prompt_prefixes:
            return
        if not self.frozen_layers and not isinstance(self.decoder, TransformersDecoder):
            raise ValueError(f"the layers of {type(self.decoder).__name__} cannot continue a prompt prefix")
        tokens = torch.tensor([prompt_prefix], device=self.device)
        with torch.no_grad():
            self._prompt_prefixes[prompt_prefix] = keys_and_values(self.decoder, self.embed(tokens, None, None))

    def hidden(
        self,
        embeddings: Tensor,
        mask: Tensor | BlockMask | None,
        input_pos: Tensor,
        prompt_prefix: tuple[int, ...] = (),
    ) -> Tensor:
        """Run the decoder's layers.

        Args:
            embeddings: ``[R, S, d]``.
            mask: ``[R, S, keys]`` bool or a block mask; None is causal.
            input_pos: ``[R, S]`` int64.
            prompt_prefix: a cached one whose keys come before those of the rows; only for a decoder of transformers.

        Returns:
            ``[R, S, d]`` before the final norm, which a decoder of transformers applies itself.
        """
        if isinstance(self.decoder, TransformersDecoder):
            assert not isinstance(mask, BlockMask), "its masks are tensors"
            before = self._prompt_prefixes.get(prompt_prefix)
            return self.decoder.run(embeddings, mask, input_pos, self.checkpointed_layers, before)
        states = embeddings
        for number, layer in enumerate(self.decoder.layers):
            states = self._run(number, layer, states, mask=mask, input_pos=input_pos)
        return states

    def hidden_at(self, embeddings: Tensor, output_positions: Tensor, mask: Tensor | None, input_pos: Tensor) -> Tensor:
        """Run the decoder's layers where only a few hidden states are wanted, without gradients.

        Args:
            embeddings: ``[R, S, d]``.
            output_positions: ``[n]`` int64 flat positions.
            mask: ``[R, S, keys]`` bool; None is causal.
            input_pos: ``[R, S]`` int64.

        Returns:
            ``[n, d]`` before the final norm.
        """
        if isinstance(self.decoder, TransformersDecoder):
            return self.hidden(embeddings, mask, input_pos).flatten(0, 1)[output_positions]
        states = embeddings
        *layers, last = self.decoder.layers
        for layer in layers:
            states = layer(states, mask=mask, input_pos=input_pos)
        if isinstance(last, FrozenLayer):
            return last(states, mask=mask, input_pos=input_pos, output_positions=output_positions)[0]
        return last(states, mask=mask, input_pos=input_pos).flatten(0, 1)[output_positions]

    def unembed(self, hidden: Tensor) -> Tensor:
        """Apply the final norm and the output head, of the added tokens too: ``[..., d] -> [..., V + n]`` float32."""
        states = self.decoder.norm(hidden)
        logits = project(self.decoder.output, states)
        rows = self.added_rows(OUTPUT)
        if rows is None:
            return logits.float()
        rows = rows.to(states.dtype)
        # A head of transformers has its family's factors for these, too.
        own = isinstance(self.decoder, TransformersDecoder)
        further = self.decoder.output(states, rows) if own else functional.linear(states, rows)
        return torch.cat([logits, further.float()], dim=-1)  # the copy to float32 joins them

    def micro_batches(self, batch: Batch) -> list[Batch]:
        """Divide a batch into what is computed one after another, forward and backward, so that it takes little memory.

        Args:
            batch: batch on any device.

        Returns:
            Batches whose losses add up to that of the whole one; just that on a GPU.
        """
        # [Contract] processes that share the layers make the same number of passes.
        return [batch] if self.always_backward or not self._is_ragged(batch) else batch.micro_batches(CPU_PASS_TOKENS)

    def _is_ragged(self, batch: Batch) -> bool:
        return self.frozen_layers and not self.compiled and batch.tokens.device.type == "cpu"

    def losses(self, batch: Batch, chunk_size: int | None = None) -> dict[str, Tensor]:
        """Compute the loss terms of a batch as sums; ``batch.counts`` says what each is to be divided by.

        Args:
            batch: batch on the decoder's device.
            chunk_size: positions whose logits exist at one time; None for the default.

        Returns:
            The terms of ``loss_terms``, float32 scalars: ``text`` is the summed cross-entropy over the targets.
        """
        image_rows, patches = (None, None) if batch.images is None else self.encode_with_patches(batch.images)
        hidden, targets = self.hidden_at_targets(batch, image_rows, patches)
        rows = self.added_rows(OUTPUT)
        terms = {TEXT: label_loss(hidden, targets, self.unembed, chunk_size, () if rows is None else (rows,))}
        for component in self.components.values():
            terms |= component.losses(batch, hidden, patches)
        return terms

    def hidden_at_targets(
        self, batch: Batch, image_rows: Tensor | None, patches: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the decoder's layers over a batch.

        Args:
            batch: batch on the decoder's device.
            image_rows: ``[sum of K_i, d]`` image tokens of its images, or None.
            patches: ``[N, T, D]`` patch tokens of its pictures; unused without regions.

        Returns:
            ``[n, d]`` hidden states before the final norm where there is something to predict, and that, ``[n]``.
        """
        ragged = self._is_ragged(batch)
        if ragged:
            batch = batch.without_padding()
        positions = batch.image_positions
        if batch.region_weights is not None:
            image_rows, positions = self._with_regions(batch, image_rows, patches)
        embeddings = self.embed(batch.tokens, image_rows, positions)  # [R, S, d]
        if self.always_backward and torch.is_grad_enabled() and not embeddings.requires_grad:
            embeddings.requires_grad_()
        for component in self.components.values():
            component.begin(batch, embeddings)
        output_positions = batch.target_positions
        targets = batch.targets.flatten()[output_positions]
        if self.frozen_layers:
            return self._train_layers(embeddings, batch, output_positions, ragged), targets
        before = batch.prompt_prefix
        mask = packed_attention_mask(batch.document, batch.branch, batch.after_prompt_prefix, len(before))
        hidden = self.hidden(embeddings, mask, batch.input_pos, before)  # [R, S, d]
        return hidden.flatten(0, 1)[output_positions], targets

    def _with_regions(self, batch: Batch, image_rows: Tensor | None, patches: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the tokens of a batch's images and then of its regions, ``[n, d]``, and their positions, ``[n]``."""
        assert patches is not None and image_rows is not None, "every region lies on a picture of the batch"
        assert batch.region_weights is not None and batch.region_images is not None
        assert batch.region_positions is not None and batch.image_positions is not None
        rows = self.encode_regions(patches[batch.region_images], batch.region_weights)  # [Q, K, d]
        positions = batch.region_positions[:, None] + torch.arange(rows.shape[1], device=rows.device)  # [Q, K]
        return torch.cat([image_rows, rows.flatten(0, 1)]), torch.cat([batch.image_positions, positions.flatten()])

    def _train_layers(self, embeddings: Tensor, batch: Batch, output_positions: Tensor, ragged: bool) -> Tensor:
        """``[R, S, d]`` -> ``[n, d]`` before the final norm, by the training pass."""
        options: dict[str, Any] = {"input_pos": batch.input_pos, "training_pass": True}
        options |= attention_options(batch, output_positions, self.dtype, ragged)
        kept = self._prompt_prefixes[batch.prompt_prefix] if batch.prompt_prefix else [None] * len(self.decoder.layers)
        tables = rotation_tables(self.decoder.layers, batch.input_pos)
        states, last = embeddings, len(self.decoder.layers) - 1
        parts = zip(self.decoder.layers, kept, tables, strict=True)
        for number, (layer, prompt_prefix, table) in enumerate(parts):
            options |= {"output_positions": output_positions if number == last else None}
            states = self._run(number, layer, states, prompt_prefix=prompt_prefix, table=table, **options)
        return states[0]

    def _run(self, number: int, layer: nn.Module, states: Tensor, **options: Any) -> Any:
        if number < self.checkpointed_layers and torch.is_grad_enabled():
            draws = any(component.draws_in_layers for component in self.components.values())
            return checkpoint(layer, states, use_reentrant=False, preserve_rng_state=draws, **options)
        return layer(states, **options)
