"""The keys that say which model: every recipe has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from medcap.configuration import HOME_EXPANDED, ComponentRule, Configuration, OneOf, PathText
from medcap.models.component import Component
from medcap.models.component_registry import COMPONENTS, further_components
from medcap.modules.frozen_linear import LLM_WEIGHTS, UNQUANTISED


class TokenizerArguments(Configuration):
    """What the tokenizer's arguments may be, whatever the component says of them."""

    max_seq_len: int | None = Field(None, ge=1, description="Longest text that the tokenizer makes, in tokens.")


class CheckpointerFiles(Configuration):
    """Names of the language model's files, and where checkpoints go."""

    checkpoint_files: list[str] | None = Field(
        None, description="Names of the weight files in that folder; null finds them."
    )
    output_dir: PathText | None = Field(
        None, description="Folder of the checkpoints that training writes; null is checkpoint in output_dir."
    )


class CheckpointFolder(Configuration):
    """Where the language model's files are."""

    checkpoint_dir: PathText = Field(description="Folder of the language model's weights.")


class CheckpointerSection(CheckpointerFiles, CheckpointFolder):
    """Files of the language model, and where checkpoints go."""


def further_keys() -> dict[str, Any]:
    """Return the keys of the registered components beside tower and projector, as ``create_model`` takes them."""
    return {
        name: (
            Annotated[dict[str, Any] | None, _rule(COMPONENTS[name])],
            Field(None, description=_first_line(COMPONENTS[name])),
        )
        for name in further_components()
    }


def _rule(component: type[Component]) -> ComponentRule:
    return ComponentRule(
        passed=1,
        optional=True,
        default=component.builder,
        others=tuple(component.other_builders.items()),
        list_argument=component.list_argument,
    )


def _first_line(component: type) -> str:
    """Return the first sentence of a component's docstring."""
    return (component.__doc__ or component.__name__).strip().splitlines()[0].strip()


class LanguageModelKeys(Configuration):
    """The frozen language model and its files."""

    llm: Annotated[dict[str, Any], ComponentRule()] = Field(
        description="Builder of the frozen language model, such as torchtune.models.llama3_1.llama3_1_8b."
    )
    tokenizer: Annotated[dict[str, Any], ComponentRule(arguments=TokenizerArguments)] = Field(
        description="Tokenizer of the language model, such as medcap.models.llama3_tokenizer."
    )
    checkpointer: CheckpointerSection = Field(description="Files of the language model, and where checkpoints go.")


class OptionalCheckpointerSection(CheckpointerFiles):
    """Files of the language model, where the run of ``vision_checkpoint`` may know them."""

    checkpoint_dir: PathText | None = Field(
        None, description="Folder of the language model's weights; null takes those of the run in vision_checkpoint."
    )


class OptionalLanguageModelKeys(Configuration):
    """The frozen language model, which the run of ``vision_checkpoint`` may know."""

    llm: Annotated[dict[str, Any] | None, ComponentRule(optional=True)] = Field(
        None,
        description="Builder of the frozen language model, such as torchtune.models.llama3_1.llama3_1_8b; null, with"
        " tokenizer and checkpointer, takes those of the run in vision_checkpoint.",
    )
    tokenizer: Annotated[dict[str, Any] | None, ComponentRule(optional=True, arguments=TokenizerArguments)] = Field(
        None, description="Tokenizer of the language model, such as medcap.models.llama3_tokenizer; null as for llm."
    )
    checkpointer: OptionalCheckpointerSection = Field(
        description="Files of the language model, and where checkpoints go."
    )


class ComponentKeys(create_model("FurtherComponents", __base__=Configuration, **further_keys())):
    """What can be trained, and where all of it computes."""

    llm_weights: Annotated[str, OneOf(LLM_WEIGHTS)] = Field(
        UNQUANTISED, description="Precision in which the layers of the frozen language model are kept."
    )
    vision: Annotated[str | dict[str, Any] | None, HOME_EXPANDED] = Field(
        None,
        description="Vision tower: a name of `medcap ls towers`, open_clip:NAME, timm:NAME, a hub name, a folder; or a"
        " mapping with name, pretrained, select_layer, scales, tiles and preprocess.",
    )
    vision_checkpoint: PathText | None = Field(
        None, description="Run or step folder, or a meta_model_*.pt of medcap 2024, that brings tower and projector."
    )
    projector: Annotated[dict[str, Any], ComponentRule(passed=2, default="medcap.models.mlp")] = Field(
        default_factory=dict, description="Projector from the tower's patches to image tokens of the language model."
    )
    without: list[str] = Field([], description="Components of the run that are left out, such as llm_lora.")
    device: str = Field("auto", description="Device that computes: auto, cpu, cuda or cuda:N; auto is a GPU if any.")
    dtype: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Precision of the frozen language model; auto is bf16 on a GPU and fp32 on a CPU."
    )


class ModelConfiguration(ComponentKeys, LanguageModelKeys):
    """Which model: what is frozen, what can be trained, and where it computes."""


class RunModelConfiguration(ComponentKeys, OptionalLanguageModelKeys):
    """Which model, where the language model may be left to the run of ``vision_checkpoint``."""
