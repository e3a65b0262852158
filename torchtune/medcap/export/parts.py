"""What transformers has no place for, beside an exported folder: box head, mask decoder and region encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medcap.checkpoints.build_model import ModelPlan
from medcap.data.json_text import parse_json
from medcap.data.regions.patch_weights import region_weights
from medcap.data.regions.region import region_from_json
from medcap.data.regions.shown import original_mask
from medcap.errors import UserError
from medcap.files import write_json
from medcap.instantiate import build
from medcap.models.box_decoder import BoxDecoder
from medcap.models.component import Component
from medcap.models.component_registry import COMPONENTS
from medcap.models.mask_decoders.base import MaskDecoder
from medcap.models.preprocess import Preprocess
from medcap.models.region_encoders.base import RegionEncoder
from medcap.models.words import AddedWords

FOLDER, DESCRIPTION = "parts", "parts.json"
KINDS = (BoxDecoder, MaskDecoder, RegionEncoder)
EXAMPLE_FILES = {"load_parts.py.txt": "load_parts.py", "README.md": "README.md"}
FORMAT_VERSION = 1


def write_parts(folder: Path, plan: ModelPlan) -> list[str]:
    """Write the components of a model that LLaVA cannot hold, and an example that loads them.

    Args:
        folder: the exported folder; ``parts`` is made in it, unless the model has no such component.
        plan: plan of the model.

    Returns:
        What the user should know.
    """
    chosen = [part for part in plan.further if issubclass(part.kind, KINDS)]
    if not chosen:
        return []
    home = folder / FOLDER
    home.mkdir()
    configs: dict[str, Any] = {}
    for part in chosen:
        state = part.build(plan).state()
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        save_file(tensors, home / f"{part.name}.safetensors", metadata={"format": "pt"})
        configs[part.name] = dict(state.config)
    vision, added = plan.vision, plan.tokenizer.added
    write_json(
        home / DESCRIPTION,
        {
            "format_version": FORMAT_VERSION,
            "llm_dim": vision.llm_dim,
            "patch_dim": vision.shape.patch_dim,
            "num_patches": vision.shape.num_patches,
            "image_size": vision.preprocess.image_size,
            "takes": vision.takes,
            "preprocess": vision.preprocess.to_dict(),
            "words": [] if added is None else list(added.words),
            "parts": configs,
        },
    )
    for source, name in EXAMPLE_FILES.items():
        text = (files("medcap.export") / "part_files" / source).read_text(encoding="utf-8")
        (home / name).write_text(text, encoding="utf-8")
    names = " and ".join(configs)
    return [f"{FOLDER}/ holds {names}, which transformers has no place for; {FOLDER}/README.md says how to load them"]


@dataclass(frozen=True)
class _Vision:
    """What a component is told of tower and projector; it is its own shape and picture."""

    llm_dim: int
    patch_dim: int
    num_patches: int
    image_size: int
    takes: str

    @property
    def shape(self) -> _Vision:
        return self

    @property
    def preprocess(self) -> _Vision:
        return self


@dataclass(frozen=True)
class _Words:
    config: dict[str, Any]
    name: str = AddedWords.name


@dataclass(frozen=True)
class _Plan:
    vision: _Vision
    further: Sequence[_Words] = field(default_factory=list)


def read_parts(folder: str | Path, final_norm: nn.Module) -> dict[str, Component]:
    """Read the components that an export wrote apart.

    Args:
        folder: ``parts`` of an exported folder.
        final_norm: the language model's norm behind its last layer, ``model.model.language_model.norm`` of
            ``LlavaForConditionalGeneration``: boxes and masks are read off hidden states that passed it.

    Returns:
        Each component by its name, in fp32 on the CPU, for inference.

    Raises:
        UserError: if a file is missing, damaged or of a newer medcap.
    """
    parts = parts_of(folder)
    model = nn.Module()
    model.decoder = nn.Module()
    model.decoder.norm = final_norm
    for part in parts.values():
        part.attach(model)
    return parts


def parts_of(folder: str | Path) -> dict[str, Component]:
    """Read the components that an export wrote apart, without a language model to connect them with.

    Args:
        folder: as for :func:`read_parts`.

    Returns:
        As for :func:`read_parts`.

    Raises:
        UserError: as :func:`read_parts`.
    """
    home = Path(folder)
    try:
        facts = parse_json((home / DESCRIPTION).read_bytes())
        if facts["format_version"] > FORMAT_VERSION:
            raise UserError(f"{home / DESCRIPTION} has format {facts['format_version']}: update medcap")
        names = ("llm_dim", "patch_dim", "num_patches", "image_size", "takes")
        plan = _Plan(_Vision(**{name: facts[name] for name in names}), [_Words({"tokens": facts["words"]})])
        return {name: _read(home, name, config, plan) for name, config in facts["parts"].items()}
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{home} cannot be read ({type(error).__name__}: {error}): export the run again") from error


def outline(
    folder: str | Path, decoder: MaskDecoder, hidden: Tensor, patches: Tensor, image: Image.Image
) -> np.ndarray | None:
    """Return the mask that a ``<SEG>`` of an answer stands for.

    Args:
        folder: ``parts`` of an exported folder.
        decoder: its mask decoder, as :func:`read_parts` returns it.
        hidden: ``[d]`` the hidden state before the final norm that predicted the word.
        patches: ``[T, D]`` patch tokens of the image.
        image: the image, upright.

    Returns:
        ``[H, W]`` bool at the size of the image; None where the decoder does not see the object.

    Raises:
        UserError: if ``parts.json`` does not say how an image is shown, as those of earlier releases do not.
    """
    shown = decoder.own_picture or _shown(Path(folder))
    picture = shown.transform()(image.convert("RGB"))
    found = decoder(hidden[None], patches[None], picture[None], torch.zeros(1, dtype=torch.int64))
    if found.seen.item() < 0:
        return None
    mask = original_mask(found.logits[0], shown.frame(image.size))
    return mask if mask.any() else None


def region_embeddings(
    folder: str | Path, encoder: RegionEncoder, patches: Tensor, image: Image.Image, region: Any
) -> Tensor:
    """Return the embeddings that stand between ``<region>`` and ``</region>`` of a question.

    Args:
        folder: ``parts`` of an exported folder.
        encoder: its region encoder, as :func:`read_parts` returns it.
        patches: ``[T, D]`` patch tokens of the image.
        image: the image, upright.
        region: the region as rows of data have it, in pixels of the image: ``[left, top, right, bottom]``,
            ``{"point": [x, y], "radius": r}``, ``{"polygon": [[x, y], ...]}`` or a mask as run-lengths.

    Returns:
        ``[K, d]``.

    Raises:
        UserError: if the region is not valid, if no part of it lies in the picture that the tower sees, or as
            :func:`outline`.
    """
    shown = _shown(Path(folder))
    drawn = region_from_json(region, "region")
    weights = region_weights(drawn, shown.frame(image.size), shown.image_size, encoder.form)  # [T]
    return encoder(patches[None], torch.from_numpy(weights)[None])[0]


def _shown(folder: Path) -> Preprocess:
    """Return how images become the tower's pictures."""
    facts = parse_json((folder / DESCRIPTION).read_bytes())
    if "preprocess" not in facts:
        raise UserError(f"{folder / DESCRIPTION} has no preprocess: export the run again")
    return Preprocess.from_dict(facts["preprocess"])


def _read(home: Path, name: str, config: Mapping[str, Any], plan: _Plan) -> Component:
    if name not in COMPONENTS:
        raise UserError(f"{home / DESCRIPTION} names the part {name}, which this medcap does not know: update medcap")
    component: Component = build(dict(config), plan, key=name)
    component.load_state_dict(load_file(home / f"{name}.safetensors"))
    return component.eval().requires_grad_(False)
