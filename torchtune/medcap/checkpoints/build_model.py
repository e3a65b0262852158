"""Build the model that a configuration names: training, generation, serving and judges all start here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from medcap.checkpoints.experts import as_given, plan_experts, starts_experts
from medcap.checkpoints.frozen_llm import LLMPlan, plan_llm
from medcap.checkpoints.keys import ModelConfiguration
from medcap.checkpoints.run import find_run_checkpoint
from medcap.checkpoints.vision import VisionPlan, materialise, plan_vision, plan_vision_of_run
from medcap.checkpoints.vision_files import SavedVision, read_vision_checkpoint
from medcap.data.added_tokens import AddedTokens
from medcap.data.boxes.style import BOX_WORD
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.regions.patch_weights import RegionForm
from medcap.data.row_masks import MASK_WORD
from medcap.errors import UserError
from medcap.instantiate import build
from medcap.models.box_decoder import BoxDecoder
from medcap.models.component import Component
from medcap.models.component_registry import COMPONENTS, VISION_SIDE, further_components
from medcap.models.decoders.transformers_model import Decoder
from medcap.models.mask_decoders.base import MaskDecoder
from medcap.models.preprocess import Preprocess
from medcap.models.region_encoders.base import RegionEncoder
from medcap.models.tokenizers import check_tokenizer_files, check_tokenizer_fits
from medcap.models.towers.tensor_files import TensorFiles
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.models.words import AddedWords
from medcap.modules.frozen_linear import check_device

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def choose_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one.

    A GPU that is named by its number becomes the process's own: what asks for no device, such as random states and
    page-locked memory, is then that GPU's too. On a GPU, attention by cuDNN is switched off for the whole process: on
    an H100 it would be the first choice, but it makes a plan for every new shape, and in torch 2.11 its backward pass
    with a mask can return NaN (https://github.com/pytorch/pytorch/issues/196678).

    Raises:
        UserError: if the named device is not there.
    """
    device = _named_device(name)
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
        if device.index is not None:
            torch.cuda.set_device(device)
    return device


def _named_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name} is unknown: use auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device={name}: medcap computes on cpu or cuda; use auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name}: this machine has no usable GPU; use device=cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}: this machine has {torch.cuda.device_count()} GPUs, numbered from 0")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bf16 on a GPU and fp32 on the CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[name]


@dataclass
class ComponentPlan:
    """A component other than tower and projector, whose files are checked but not yet read.

    Attributes:
        name: the component's.
        config: ``_component_`` and options; its function is called with the :class:`ModelPlan` and the options.
        weights: None for what the component initialises itself.
        file: that holds the weights.
        parts: weights that some of its parts start with, by the prefix of their names.
    """

    name: str
    config: dict[str, Any]
    weights: TensorFiles | None = None
    file: Path = Path()
    parts: Mapping[str, TensorFiles] = field(default_factory=dict)

    @property
    def kind(self) -> type[Component]:
        """The component's class."""
        return COMPONENTS[self.name]

    def build(self, plan: ModelPlan) -> Component:
        """Build the component and load its weights, fp32 on the CPU."""
        component = materialise(lambda: build(self.config, plan, key=self.name), self.weights)
        for prefix, tensors in self.parts.items():
            component.get_submodule(prefix).load_state_dict(tensors.read())
        return component

    def on_meta(self, plan: ModelPlan) -> Component:
        """Build the component without memory, and compare it with its weights' shapes.

        Raises:
            UserError: if its options are impossible, or the weights are of another one.
        """
        with torch.device("meta"):
            component = build(self.config, plan, key=self.name)
        if self.weights is not None:
            self.weights.check(_shapes(component), self.file, f"the component {self.name}")
        for prefix, tensors in self.parts.items():
            part = f"{prefix} of the component {self.name} for this language model"
            tensors.check(_shapes(component.get_submodule(prefix)), self.file, part)
        return component


@dataclass(frozen=True)
class EarlierRun:
    """A run whose components a new one goes on with.

    Attributes:
        folder: the run's folder, or one of its step folders.
        key: key of the configuration that names it, for messages.
    """

    folder: str
    key: str = "init_from"

    def open(self) -> SavedVision:
        """Read the description of its newest checkpoint.

        Raises:
            UserError: if it has none, or it is damaged.
        """
        try:
            return read_vision_checkpoint(find_run_checkpoint(self.folder))
        except UserError as error:
            raise UserError(f"{self.key}: {error}") from error

    def __str__(self) -> str:
        return f"{self.key}={self.folder}"


@dataclass
class ModelPlan:
    """A model whose files are checked but not yet read.

    Attributes:
        llm: the frozen language model.
        vision: tower and projector.
        tokenizer: tokenizer of the language model, with the image placeholders.
        further: the components other than tower and projector.
        own_picture: how images become the pictures of a component that looks at others than the tower; None without.
    """

    llm: LLMPlan
    vision: VisionPlan
    tokenizer: ChatTokenizer
    further: list[ComponentPlan] = field(default_factory=list)
    own_picture: Preprocess | None = None

    @property
    def components(self) -> list[str]:
        """Names of all components that the model will have."""
        return [*VISION_SIDE, *(component.name for component in self.further)]

    def base(self) -> ModelPlan:
        """Return the plan of the same model without the components that change the language model."""
        kept = [part for part in self.further if not (part.kind.changes_language_model or part.kind.needs_words)]
        return replace(self, further=kept, tokenizer=self.tokenizer.without_added)

    def load(
        self,
        device: torch.device,
        dtype: torch.dtype,
        after_layer: Callable[[nn.Module], None] | None = None,
        decoder: Decoder | None = None,
    ) -> VisionLanguageModel:
        """Read the weights.

        Args:
            device: where the model goes.
            dtype: dtype of the frozen language model, where ``llm_weights`` does not say another precision; the vision
                side keeps fp32 weights.
            after_layer: is called with each layer of the language model once it is loaded.
            decoder: another model's of the same language model, to share; its files are not read again.

        Returns:
            The model, its decoder frozen.
        """
        tower, projector = self.vision.build()
        if decoder is None:
            decoder = self.llm.load(device, dtype, after_layer)
        further = [component.build(self).to(device) for component in self.further]
        return VisionLanguageModel(
            tower.to(device),
            projector.to(device),
            decoder,
            self.tokenizer.image_token_id,
            further,
            self.tokenizer.region_token_id,
        )


@dataclass
class OpenedModel:
    """A model with its weights, ready for use.

    Attributes:
        model: its decoder frozen.
        tokenizer: makes its prompts.
        preprocess: makes its images.
        plan: what it was built from.
    """

    model: VisionLanguageModel
    tokenizer: ChatTokenizer
    preprocess: Preprocess
    plan: ModelPlan


def open_model(cfg: ModelConfiguration, plan: ModelPlan | None = None, decoder: Decoder | None = None) -> OpenedModel:
    """Open the model that a configuration names, on its device and in its dtype; notices go to standard error.

    Args:
        cfg: says which model.
        plan: plan of this configuration, where it was made before; None makes it.
        decoder: another model's of the same language model, to share.

    Returns:
        The model.

    Raises:
        UserError: if a file is missing or the parts do not fit together; before weights are read.
    """
    plan = plan or plan_model(cfg)
    device = choose_device(cfg.device)
    dtype = choose_dtype(cfg.dtype, device)
    show_notices(plan)
    return OpenedModel(plan.load(device, dtype, decoder=decoder), plan.tokenizer, plan.vision.preprocess, plan)


def show_notices(plan: ModelPlan) -> None:
    """Print what the user should know of a model to standard error."""
    for notice in plan.vision.notices:
        print(f"note: {notice}", file=sys.stderr)


def plan_model(cfg: ModelConfiguration, start: EarlierRun | None = None) -> ModelPlan:
    """Check everything that a configuration says of the model, reading only the headers of weight files.

    Args:
        cfg: says which model.
        start: a run whose weights are taken for each component that the configuration names and the run has.

    Returns:
        The plan.

    Raises:
        UserError: if a file is missing or the parts do not fit together.
    """
    if start is not None and cfg.vision_checkpoint is not None:
        raise UserError(f"{start} and vision_checkpoint={cfg.vision_checkpoint}: give only one of them")
    if cfg.vision is None and cfg.vision_checkpoint is None and start is None:
        raise UserError(
            "vision is missing: add vision=biomedclip (or siglip, clip, a folder), or vision_checkpoint=..."
        )
    check_device(cfg.llm_weights, choose_device(cfg.device))
    files = cfg.checkpointer
    llm = plan_llm(cfg.llm, files.checkpoint_dir, files.checkpoint_files, cfg.llm_weights)
    if start is None:
        vision = plan_vision(cfg.vision, cfg.vision_checkpoint, cfg.projector, llm.dim)
    else:
        projector = cfg.projector if "projector" in cfg.model_fields_set else None
        vision = plan_vision_of_run(start.open(), str(start), cfg.vision, projector, llm.dim)
    check_tokenizer_files(cfg.tokenizer)
    tokenizer = build(cfg.tokenizer, key="tokenizer")
    check_tokenizer_fits(tokenizer, llm.vocab_size)
    further = plan_further(cfg, vision, llm, start)
    added = added_tokens(further, llm.vocab_size, vision)
    chat = ChatTokenizer(tokenizer, vision.num_image_tokens, added, vision.preprocess.tiling)
    if not chat.marks_turns:
        vision.notices.append(
            "tokenizer: nothing marks where a question ends and its answer begins, which an instruct model expects; set"
            " tokenizer.prompt_template to the model's own marks, as README_FINETUNE.md shows for Gemma"
        )
    plan = ModelPlan(llm, vision, chat, further)
    for component in plan.further:
        plan.own_picture = component.on_meta(plan).own_picture or plan.own_picture
    return plan


def added_tokens(further: Sequence[ComponentPlan], table_rows: int, vision: VisionPlan) -> AddedTokens | None:
    """Return the words that become tokens.

    Args:
        further: the components of a model beside tower and projector.
        table_rows: rows of the language model's embedding table.
        vision: tower and projector.

    Returns:
        The words; None for none.

    Raises:
        UserError: if a word is impossible, or a region encoder cannot be built.
    """
    names = {component.name for component in further}
    options_of_components = {
        "box_word": BOX_WORD if BoxDecoder.name in names else "",
        "mask_word": MASK_WORD if MaskDecoder.name in names else "",
        "regions": _region_form(further, vision),
    }
    for component in further:
        if component.name == AddedWords.name:
            options = component.config
            words, image_words = tuple(options["tokens"]), tuple(options.get("image_words") or ())
            return AddedTokens(words, table_rows, image_words, **options_of_components)
    return None


def _region_form(further: Sequence[ComponentPlan], vision: VisionPlan) -> RegionForm | None:
    """Return how the region encoder reads regions; None without one."""
    for component in further:
        if component.name == RegionEncoder.name:
            # The encoder alone knows its number of tokens, which the tokenizer has to know before there is a plan.
            with torch.device("meta"):
                return build(component.config, SimpleNamespace(vision=vision, further=further), key=component.name).form
    return None


def plan_further(
    cfg: ModelConfiguration, vision: VisionPlan, llm: LLMPlan | None = None, start: EarlierRun | None = None
) -> list[ComponentPlan]:
    """Plan the components that the configuration or the checkpoint names.

    A ``vision_checkpoint`` brings all its components and its own options win; of a run to start from only those
    components are taken that the configuration names too, with the same options. Experts are read from their runs if
    the language model is given.
    """
    plans = []
    there = {} if vision.saved is None else vision.saved.configs
    for name in cfg.without:
        if name not in further_components() or (name not in there and getattr(cfg, name) is None):
            raise UserError(f"without={name}: this model has no such component that can be left out")
    for name in further_components():
        given = getattr(cfg, name)
        if name in cfg.without or (start is not None and given is None):
            continue
        source = vision.saved
        if starts_experts(given, there.get(name)):
            if name in there and cfg.vision_checkpoint is not None:
                raise UserError(
                    f"{name}.experts: vision_checkpoint={cfg.vision_checkpoint} brings its own {name}; use init_from"
                    " in its place"
                )
            dtype = choose_dtype(cfg.dtype, choose_device(cfg.device))
            config, parts = (given, {}) if llm is None else plan_experts(given, llm, dtype)
            plans.append(ComponentPlan(name, config, parts=parts))
        elif source is not None and (saved := source.configs.get(name)) is not None:
            file = source.path.with_name(f"{name}.safetensors")
            plans.append(ComponentPlan(name, saved, source.tensors[name], file))
            named = as_given(saved)
            other = {key: named.get(key) for key, value in (given or {}).items() if named.get(key) != value}
            if other and start is not None:
                raise UserError(f"{start}: its {name} has {other}, which this configuration gives otherwise: {given}")
            for key in COMPONENTS[name].fixed_arguments:
                if given is not None and given.get(key) != saved[key]:
                    raise UserError(
                        f"{name}.{key}={given.get(key)}: {source.path.parent} was trained with {saved[key]}; leave"
                        f" {name} out to use these"
                    )
            if other:
                vision.notices.append(f"{source.path.parent} brings its own {name}; {given} is not used")
        elif given is not None:
            plans.append(ComponentPlan(name, given))
    return plans


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
