"""A model from elsewhere in our terms, and the run's folder that it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor, nn

from medcap.checkpoints.run import CONFIG_FILE
from medcap.checkpoints.tokenizer_files import LLAMA3_TOKENIZER, TEMPLATE_FILES, copy_tokenizer_files
from medcap.checkpoints.vision_files import save_components
from medcap.checkpoints.weight_shards import PendingTensor, write_shards
from medcap.errors import UserError
from medcap.files import write_json
from medcap.models.component import ComponentState
from medcap.models.projectors.base import Projector
from medcap.models.tokenizer_folder import TOKENIZER_JSON
from medcap.models.towers.base import Tower
from medcap.models.towers.tensor_files import why_empty

LLM_FOLDER = "llm"
_SHARD_BYTES = 2 * 10**9


@dataclass
class ImportedLanguage:
    """A language model that an imported one speaks through.

    Attributes:
        llm: the ``llm`` key: builder and arguments.
        tokenizer: the ``tokenizer`` key, its path below ``folder``; empty where the source has none that torchtune
            reads.
        folder: where its files are.
        config: Hugging Face's config.json, if it is to be written; its weights stay where they are otherwise.
        tensors: tensors of a Hugging Face model, if it is to be written.
        tokenizer_text: tokenizer text of original/tokenizer.model, where the source has only a tokenizer.json of Llama
            3.
    """

    llm: dict[str, Any]
    tokenizer: dict[str, Any]
    folder: Path
    config: dict[str, Any] | None = None
    tensors: Sequence[PendingTensor] = ()
    tokenizer_text: str | None = None


@dataclass
class ImportedModel:
    """What a source holds.

    Attributes:
        tower: tower with weights.
        projector: projector with weights.
        llm_dim: width of the language model's embeddings.
        language: None where the source has no language model, and none was named.
        notices: lines that the user should see.
        further: components other than tower and projector.
    """

    tower: Tower
    projector: Projector
    llm_dim: int
    language: ImportedLanguage | None = None
    notices: list[str] = field(default_factory=list)
    further: list[ComponentState] = field(default_factory=list)


def write_imported(folder: Path, model: ImportedModel) -> None:
    """Write what a run's folder needs to be opened and to be trained from.

    What it holds is named from the folder itself, so that it can be moved.

    Args:
        folder: empty folder to fill.
        model: what to write.
    """
    language = model.language
    component = None if language is None else language.llm["_component_"]
    remembered = {"component": component, "dim": model.llm_dim, "weights": "bf16", "fingerprint": None}
    save_components(folder, [model.tower.state(), model.projector.state(), *model.further], remembered)
    if language is None:
        return
    llm_folder = language.folder.absolute()
    if language.config is not None:
        llm_folder = Path(LLM_FOLDER)
        _write_language(folder / LLM_FOLDER, language)
    tokenizer = dict(language.tokenizer)
    if tokenizer and not Path(tokenizer["path"]).is_absolute():
        tokenizer["path"] = str(llm_folder / tokenizer["path"])
    config = {
        "llm": language.llm,
        "llm_weights": "bf16",
        **({"tokenizer": tokenizer} if tokenizer else {}),
        "checkpointer": {"checkpoint_dir": str(llm_folder), "checkpoint_files": None, "output_dir": None},
        "vision": None,
        "projector": dict(model.projector.options),
        **{state.name: dict(state.config) for state in model.further},
        "device": "auto",
        "dtype": "auto",
    }
    OmegaConf.save(OmegaConf.create(config), folder / CONFIG_FILE)


def load_part(module: nn.Module, tensors: Mapping[str, Tensor], location: Path, purpose: str) -> None:
    """Load weights that must fit one to one.

    Args:
        module: gets them.
        tensors: tensors under their own names.
        location: where they come from, for messages.
        purpose: what they are, for messages.

    Raises:
        UserError: naming what does not fit.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            needs = f"needs {list(expected[name])}" if name in expected else "has no place for it"
            has = list(found[name]) if name in found else "missing"
            why = why_empty(found.get(name, ()))
            raise UserError(f"{location}: tensor {name} of {purpose} is {has}, but its configuration {needs}{why}")
    module.load_state_dict(dict(tensors))


def _write_language(folder: Path, language: ImportedLanguage) -> None:
    folder.mkdir()
    write_json(folder / "config.json", language.config)
    own = str(language.tokenizer.get("path", "")).endswith(TOKENIZER_JSON)
    copy_tokenizer_files(language.folder, folder, TEMPLATE_FILES if own else ())
    if language.tokenizer_text is not None:
        (folder / "original").mkdir(exist_ok=True)
        (folder / LLAMA3_TOKENIZER).write_text(language.tokenizer_text, encoding="ascii")
    write_shards(folder, language.tensors, _SHARD_BYTES, "language model")
