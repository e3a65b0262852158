"""``medcap import``: which of the known formats a source is, and the run that it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medcap.checkpoints.atomic import atomic_folder
from medcap.checkpoints.vision import plan_vision
from medcap.errors import UserError
from medcap.export.adapter_folder import FOLDER as ADAPTER_FOLDER
from medcap.export.formats import check_empty
from medcap.importing.adapter_files import holds_adapters, open_adapters
from medcap.importing.adapters import add_adapters, import_trained_folder, take_projector
from medcap.importing.imported_model import ImportedModel, write_imported
from medcap.importing.language import named_language
from medcap.importing.llava_hf import import_llava_hf
from medcap.importing.llava_original import MODEL_TYPES, import_llava_original, import_projector
from medcap.models.towers.tensor_files import PICKLE_SUFFIXES, open_tensor_files, read_json

_OTHER_PROMPTS = (
    "prompts are those of torchtune's tokenizer for this language model, not of LLaVA's conversation template:"
    " fine-tune before you compare scores"
)


@dataclass(frozen=True)
class ImportOptions:
    """What a source does not say of itself.

    Attributes:
        vision: its tower, as ``vision=`` takes it.
        select_layer: which hidden state of it is read; None is what the source says.
        llm: folder of the language model, for sources without one.
        tokenizer: a tokenizer.model, where the source's folder has none.
        adapters: folder of adapters for the source's language model.
    """

    vision: str | None = None
    select_layer: int | None = None
    llm: Path | None = None
    tokenizer: Path | None = None
    adapters: Path | None = None


def import_model(source: str | Path, out: str | Path, options: ImportOptions | None = None) -> list[str]:
    """Make a run of a model from elsewhere; the folder appears whole or not at all.

    Args:
        source: a LLaVA folder, transformers' or LLaVA's own; a ``meta_model_*.pt``; a ``mm_projector.bin``; a folder of
            adapters with a projector.
        out: the folder to write; it must not exist, or be empty.
        options: see :class:`ImportOptions`.

    Returns:
        Lines that the user should see.

    Raises:
        UserError: if the source is of no known format, or holds something that we have no place for.
    """
    target = Path(out).expanduser()
    check_empty(target)
    model = read_source(Path(source).expanduser(), options or ImportOptions())
    with atomic_folder(target, marked=False) as folder:
        write_imported(folder, model)
    notices = list(model.notices)
    if model.language is None:
        notices.append(
            f"the source has no language model: train with vision_checkpoint={out}, or name one with --llm FOLDER to"
            " open the folder as a run"
        )
    elif not model.language.tokenizer:
        notices.append("no tokenizer.model was found: the run needs tokenizer._component_=... tokenizer.path=...")
    elif model.language.tokenizer["_component_"] != "medcap.models.llama3_tokenizer":
        notices.append(_OTHER_PROMPTS)
    return notices


def read_source(source: Path, options: ImportOptions) -> ImportedModel:
    """Read a model; large language models stay in their files.

    Args:
        source: source as for :func:`import_model`.
        options: see :class:`ImportOptions`.

    Raises:
        UserError: see :func:`import_model`.
    """
    adapters = _adapters_of(source, options)
    if adapters is None:
        return _read_parts(source, options)
    # Their options are checked before anything is read.
    files = open_adapters(adapters)
    if adapters == source:
        model = import_trained_folder(files, options.vision, options.select_layer, options.llm, options.tokenizer)
    else:
        model = _read_parts(source, options)
        take_projector(model, files)
    add_adapters(model, files)
    return model


def _adapters_of(source: Path, options: ImportOptions) -> Path | None:
    """Return the folder or file of adapters: the source itself, the one that is named, or that of our own exports."""
    if source.exists() and holds_adapters(source):
        if options.adapters is not None:
            raise UserError(f"--adapters {options.adapters}: {source} holds adapters itself; leave it out")
        return source
    if options.adapters is not None:
        if not options.adapters.exists():
            raise UserError(f"--adapters {options.adapters} does not exist: give a folder or a file of adapters")
        return options.adapters
    exported = source / ADAPTER_FOLDER
    return exported if exported.is_dir() and holds_adapters(exported) else None


def _read_parts(source: Path, options: ImportOptions) -> ImportedModel:
    """Read tower, projector and language model."""
    if source.is_dir():
        return _read_folder(source, options)
    if not source.is_file():
        raise UserError(f"{source}: there is no such file or folder; download a model of the hub first (hf download)")
    if source.suffix not in (*PICKLE_SUFFIXES, ".safetensors"):
        raise UserError(f"{source} is of no known format: give a LLaVA folder, a meta_model_*.pt or a mm_projector.bin")
    names = open_tensor_files(source).names
    if any(name.startswith("visual.") for name in names):
        return _read_meta_model(source, options)
    return import_projector(source, options.vision, options.select_layer, options.llm, options.tokenizer)


def _read_folder(folder: Path, options: ImportOptions) -> ImportedModel:
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind == "llava" and "text_config" in config:
        for name in ("vision", "select_layer", "llm"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name.replace('_', '-')}: {folder} says it itself; leave it out")
        return import_llava_hf(folder, config, options.tokenizer)
    if kind in MODEL_TYPES:
        if options.llm is not None:
            raise UserError(f"--llm: {folder} holds its language model; leave it out")
        return import_llava_original(folder, config, options.vision, options.select_layer, options.tokenizer)
    raise UserError(
        f"{folder / 'config.json'}: model_type {kind!r} is no LLaVA; llava, {', '.join(list(MODEL_TYPES)[1:])} are"
    )


def _read_meta_model(file: Path, options: ImportOptions) -> ImportedModel:
    if options.vision is None:
        raise UserError(f"{file} does not say which tower it holds: give --vision biomedclip")
    shape = open_tensor_files(file).under("projector.")
    if "0.weight" not in shape.names:
        raise UserError(f"{file}: tensor projector.0.weight is missing, so this is no meta_model file")
    language = None if options.llm is None else named_language(options.llm, options.tokenizer)
    # The hidden width of medcap 2024's projector is that of the language model.
    llm_dim = shape.shape("0.weight")[0] if language is None else language.llm["embed_dim"]
    plan = plan_vision(options.vision, str(file), {"_component_": "medcap.models.pooled_mlp"}, llm_dim)
    return ImportedModel(*plan.build(), llm_dim, language, list(plan.notices))
