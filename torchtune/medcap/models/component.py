"""The interface of a component: a part next to the frozen language model that can be trained, saved and removed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from medcap.models.preprocess import Preprocess

if TYPE_CHECKING:
    from medcap.data.batch import Batch


# Names of the language model's two tables, which can be one.
EMBEDDING, OUTPUT = "tok_embeddings.weight", "output.weight"


@dataclass(frozen=True)
class ComponentState:
    """A component as plain data, as files hold it.

    Attributes:
        name: the component's name, which is also the prefix of its tensors in a file.
        config: rebuilds it, as JSON holds it.
        tensors: its ``state_dict``.
    """

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


class Component(nn.Module, ABC):
    """A part next to the frozen language model.

    Everything that trains is a component. Setup, optimizer, memory estimate, banner, checkpoints and model card loop
    over the components of a model, so a new one is a subclass in a file of its own and a line in
    ``medcap.models.component_registry.COMPONENTS``.

    Attributes:
        name: key of the configuration and of ``trainable``, and prefix of its tensors in a checkpoint.
        label: what the banner and the model card call it.
        unused_label: what the banner calls its parameters that never get a gradient.
        loss_terms: names of the loss terms that it adds to ``text``.
        loss_weights: what these weigh where the key ``losses`` says nothing; a term without an entry weighs 1.
        loss_counts: what the sums of terms are divided by, where it is the count of another term.
        reads_patches: whether it looks at the tower's patch tokens, which are then kept beside the image tokens.
        reads_pictures: whether it looks at the pictures that the tower is shown, which generation then keeps.
        own_picture: how images become the pictures that it looks at beside the tower's; None if it looks at none.
            Batches then hold one of each image with masks, and generation one of each image.
        builder: the ``_component_`` of a configuration that names none; None where one must be named.
        other_builders: argument -> the ``_component_`` of a configuration that names none but has this argument.
        list_argument: the argument that a list in the place of ``_component_`` and arguments stands for.
        fixed_arguments: arguments that a configuration may not give otherwise than the checkpoint that it starts from.
        needs_words: whether it does nothing without added words.
        changes_language_model: whether the frozen layers compute something else with it. Models that differ in such a
            component cannot share one copy of the language model.
        enabled: whether the language model uses the component now, where it changes it.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    unused_label: ClassVar[str] = "unused head"
    loss_terms: ClassVar[tuple[str, ...]] = ()
    loss_weights: ClassVar[Mapping[str, float]] = {}
    loss_counts: ClassVar[Mapping[str, str]] = {}
    reads_patches: ClassVar[bool] = False
    reads_pictures: ClassVar[bool] = False
    builder: ClassVar[str | None] = None
    other_builders: ClassVar[Mapping[str, str]] = {}
    list_argument: ClassVar[str | None] = None
    fixed_arguments: ClassVar[tuple[str, ...]] = ()
    needs_words: ClassVar[bool] = False
    changes_language_model: ClassVar[bool] = False
    enabled: bool = True
    own_picture: Preprocess | None = None

    @property
    def draws_in_layers(self) -> bool:
        """Whether it may draw random numbers while the language model's layers run, as dropout does.

        Layers that are computed again must then draw the same numbers, so that their state is kept.
        """
        return self.changes_language_model

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return what rebuilds the component without its weights, as JSON holds it."""

    @classmethod
    @abstractmethod
    def summary(cls, config: Mapping[str, Any]) -> str:
        """Describe a component in a few words, for the model card.

        Args:
            config: configuration that ``config()`` returned.
        """

    def unused(self, components: Mapping[str, Component]) -> Collection[str]:
        """Find the parameters that never get a gradient in this model.

        Args:
            components: all components of the model, by name.

        Returns:
            Names as in ``named_parameters()``.
        """
        return ()

    def losses(self, batch: Batch, hidden: Tensor, patches: Tensor | None) -> dict[str, Tensor]:
        """Compute the component's own loss terms as sums.

        Args:
            batch: batch on the model's device; its ``counts`` say what each term is to be divided by.
            hidden: ``[n, d]`` hidden states before the final norm, at the batch's target positions.
            patches: ``[N, T, D]`` the tower's patch tokens of the batch's pictures; None without pictures, or where no
                component reads them.

        Returns:
            A float32 scalar for each name of ``loss_terms``.
        """
        return {}

    def begin(self, batch: Batch, embeddings: Tensor) -> None:
        """Look at a batch before the language model's layers run over it.

        Args:
            batch: batch on the model's device, laid out as the layers get it.
            embeddings: ``[R, S, d]`` embeddings of its tokens, the image tokens among them.
        """

    def log_sums(self) -> Tensor | None:
        """Return what the log says of the component since the last call: ``[m]`` sums over tokens; None for nothing."""
        return None

    def log_values(self, sums: Sequence[float]) -> dict[str, float]:
        """Return the values of the log.

        Args:
            sums: ``log_sums`` added over all processes.
        """
        return {}

    def attach(self, model: nn.Module) -> None:
        """Connect the component with the model that holds it; called once, when the model is built.

        Args:
            model: the ``VisionLanguageModel``, complete but for the components that come later.
        """

    def layer_activations(self, tokens: int, dtype: torch.dtype) -> int:
        """Count the bytes that training keeps for it in one layer of the language model, beside the layer's own.

        Args:
            tokens: of a batch.
            dtype: of the layer's activations.
        """
        return 0

    def added_weight(self, name: str) -> Tensor | None:
        """Return what a weight of the language model needs added to do without this component.

        Args:
            name: of the decoder's parameter.

        Returns:
            fp32, of the weight's shape; None if the weight stays what it is.
        """
        return None

    def added_rows(self, name: str) -> Tensor | None:
        """Return rows that follow those of a table of the language model, of the ids after its own.

        Args:
            name: ``EMBEDDING`` or ``OUTPUT``.

        Returns:
            ``[n, d]`` fp32; None for no rows.
        """
        return None

    def state(self) -> ComponentState:
        """Return the component as plain data; its tensors are the live ones, not copies."""
        return ComponentState(self.name, self.config(), dict(self.state_dict()))


def set_gradient_flags(components: Mapping[str, Component], names: Collection[str]) -> dict[str, nn.Parameter]:
    """Set which components learn.

    A parameter that never gets a gradient (a pooling head where patch tokens are taken) stays frozen.

    Args:
        components: all components of a model, by name; their ``requires_grad`` flags are set.
        names: the components that learn.

    Returns:
        The trainable parameters, under the component's name and their own.
    """
    trained = {}
    for name, component in components.items():
        unused = component.unused(components)
        for key, parameter in component.named_parameters():
            parameter.requires_grad_(name in names and key not in unused)
            if parameter.requires_grad:
                trained[f"{name}.{key}"] = parameter
    return trained
