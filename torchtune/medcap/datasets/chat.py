"""The dataset component of conversations with images: one file, or several as a mixture."""

from __future__ import annotations

from typing import Any

from medcap.data.boxes.style import box_style
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.images.reader import MAX_PIXELS
from medcap.data.images.tiles import refuse_fit
from medcap.data.images.view_keys import read_view
from medcap.data.labels_and_image_tokens import LabelRules
from medcap.data.row_examples import MODES
from medcap.data.row_layouts import STYLES
from medcap.data.shared_prefix import find_prompt_prefix
from medcap.datasets.chat_rows import ChatDataset
from medcap.datasets.mixture import MixedDataset
from medcap.datasets.rows.source import open_source
from medcap.datasets.source_keys import check_sources
from medcap.datasets.training_dataset import TrainingDataset
from medcap.errors import UserError
from medcap.models.preprocess import Preprocess

# Up to this many rows are all tokenized before a run even where packing does not need their lengths: seconds.
COUNT_ALWAYS = 100_000


def chat_dataset(
    tokenizer: ChatTokenizer,
    *,
    source: str | None = None,
    sources: list[dict[str, Any]] | None = None,
    epoch_samples: int | None = None,
    max_seq_len: int = 1024,
    conversation_style: str = "auto",
    packed: bool = False,
    share_images: bool = True,
    share_preamble: bool = True,
    image_roots: list[str] | None = None,
    max_image_pixels: int = MAX_PIXELS,
    train_on_input: bool = False,
    train_on_header: bool = False,
    mask_after_image: bool = False,
    view: dict[str, Any] | None = None,
    examples: str | None = None,
    box_format: str | None = None,
    box_write: str | None = None,
    box_answer: str | None = None,
    box_frame: str | None = None,
    preprocess: Preprocess | None = None,
) -> TrainingDataset:
    """Conversations with images for a frozen language model.

    Args:
        tokenizer: given by the recipe.
        source: JSON or JSONL file of medcap 2024's, LLaVA's, ColonINST's or torchtune's rows; text-only rows may be
            among them. Or tar shards in WebDataset's layout: a ``.tar``, a glob, or a pattern such as
            ``train-{000000..000099}.tar``.
        sources: instead of one ``source``, several, mixed by their weights: a mapping for each, with the keys of
            :class:`medcap.datasets.source_keys.SourceArguments`.
        epoch_samples: samples of an epoch of ``sources``; by default as many as they have usable rows.
        max_seq_len: tokens that a sample keeps, and the length of a packed row.
        conversation_style: ``auto`` recognises the layouts by their keys.
        packed: True fills rows of ``max_seq_len`` tokens, and ``batch_size`` counts rows; False takes ``batch_size``
            samples a step, as an unpacked run does, and still pads next to nothing.
        share_images: compute an image once for all samples of a batch that show it.
        share_preamble: compute the words that all samples begin with once in a run.
        image_roots: folders that images may be in, or tar files that hold them; by default the file's own folder and
            the working directory.
        max_image_pixels: width x height above which an image is refused.
        train_on_input: learn the user's words too.
        train_on_header: learn the assistant's header too, as medcap 2024 did.
        mask_after_image: never learn the token right after an image, as medcap 2024 did.
        view: how images are looked at where a row does not say it: ``frames``, ``axis``, ``window`` and ``fit``, see
            :class:`medcap.data.images.views.View`.
        examples: rows of example images: ``overlay``, the default, draws their masks on them, ``separate`` beside them.
        box_format: notation of the boxes in the rows' texts, one of ``medcap.data.boxes.notations.NOTATIONS``; by
            default they are told apart by their marks and numbers.
        box_write: notation that boxes are written in; by default texts stay as they are.
        box_answer: ``head`` makes the boxes in the assistant's words targets of a box head, each the word ``<BOX>``;
            ``text`` leaves them text.
        box_frame: ``shown`` writes boxes in coordinates of the square that the tower is shown, ``original`` in those of
            the image.
        preprocess: the tower's, given by the recipe.

    Returns:
        The dataset, its rows indexed; tokens are made when they are needed.

    Raises:
        UserError: if a file cannot be read or holds no usable row, or the sources cannot be mixed.

    Example:
        >>> dataset = chat_dataset(tokenizer, source="datasets/medcap/vqarad_train.json", max_seq_len=500)
        >>> plan = dataset.plan(seed=0, epoch=0)
    """
    check_room_for_image(max_seq_len, tokenizer)
    files = check_sources(source, sources, epoch_samples)
    common = read_view(view or {}, prefix="dataset.view.")
    shared = {
        "conversation_style": conversation_style,
        "image_roots": image_roots,
        "train_on_input": train_on_input,
        "train_on_header": train_on_header,
        "mask_after_image": mask_after_image,
    }
    boxes = {"box_format": box_format, "box_write": box_write, "box_answer": box_answer, "box_frame": box_frame}
    frame = None if preprocess is None else preprocess.frame
    parts = []
    for file in files:
        own = {key: value for key, value in file.model_dump(exclude_none=True).items() if key in shared}
        style, roots, *learnt = (shared | own).values()
        if style not in STYLES:
            raise UserError(f"conversation_style={style} is unknown: use one of {', '.join(STYLES)}")
        rows, reader = open_source(file.source, roots, max_image_pixels)
        known = read_view(file.view or {}, common)
        refuse_fit(known.fit, tokenizer.tiles, "dataset.view.fit")
        parts.append(
            ChatDataset(
                rows,
                reader,
                tokenizer,
                style,
                LabelRules(*learnt),
                max_seq_len,
                packed,
                share_images,
                view=known,
                boxes=box_style(boxes | file.box_keys(), frame),
                examples=file.examples or examples or MODES[0],
            )
        )
    if share_preamble:
        samples = [sample for part in parts for sample in part.some_samples()]
        prompt_prefix = find_prompt_prefix(samples, tokenizer.image_token_id)
        for part in parts:
            part.prompt_prefix = prompt_prefix
    for part in parts:
        if packed or part.num_rows <= COUNT_ALWAYS:
            part.count()
    return parts[0] if sources is None else MixedDataset(parts, files, epoch_samples)


def check_room_for_image(max_seq_len: int, tokenizer: ChatTokenizer) -> None:
    """See that a sample can hold an image.

    Raises:
        UserError: if one image has as many tokens as a sample keeps.
    """
    if max_seq_len <= tokenizer.most_image_tokens:
        raise UserError(
            f"dataset.max_seq_len={max_seq_len} is not longer than one image's {tokenizer.most_image_tokens} tokens:"
            f" raise it, or lower projector.num_image_tokens{' or vision.tiles' if tokenizer.tiles else ''}"
        )
