"""Masks of DICOM images as DICOM segmentation objects, which viewers and archives take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medcap.data.images.frame_choice import MIDDLE, choose_frames
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.view_keys import split_words
from medcap.data.mask_names import mask_names
from medcap.errors import UserError
from medcap.files import make_folder
from medcap.scoring.question import Answer
from medcap.scoring.replies.mask_reply import predicted_masks

if TYPE_CHECKING:
    from pydicom import Dataset

_MOST_CHARACTERS = 64  # of a text of DICOM's type LO


def write_segmentations(answers: Sequence[Answer], folder: Path, reader: ImageReader) -> tuple[list[Path], list[str]]:
    """Write a segmentation for each image of each answer that has masks with a pixel.

    Args:
        answers: any; those without masks are left out.
        folder: where the files go, named after their rows; it is made.
        reader: finds the images.

    Returns:
        The files that were written, and a line for each image that has none.

    Raises:
        UserError: if highdicom is not installed, the folder cannot be written, or no answer has a mask.
    """
    _require_highdicom()
    written: list[Path] = []
    notices: list[str] = []
    for answer in answers:
        for number, masks in _by_picture(answer).items():
            name = answer.question.id if number == 0 else f"{answer.question.id}, image {number}"
            try:
                picture = _picture(answer, number, reader)
                dataset = segmentation(Path(picture.path), masks, len(written) + 1, picture.view.frames)
            except UserError as error:
                notices.append(f"{name}: {error}")
                continue
            make_folder(folder)
            file = _free(folder / ("_".join(re.findall(r"[\w-]+", name)) or "row"), written)
            try:
                dataset.save_as(file)
            except OSError as error:
                raise UserError(f"{file} cannot be written: {error.strerror}") from error
            written.append(file)
    if not written and not notices:
        raise UserError("no answer has a mask with a pixel in it")
    return written, notices


def _require_highdicom() -> None:
    try:
        import highdicom  # noqa: F401  # pyright: ignore[reportMissingImports] - to say at once that it is missing
    except ImportError as error:
        raise UserError(f"DICOM segmentations need highdicom: pip install 'medcap[seg]' ({error})") from None


def _picture(answer: Answer, number: int, reader: ImageReader) -> ImageRef:
    """Return a picture of a row's images; each frame that is shown of a file counts as one."""
    pictures: list[ImageRef] = []
    for name in answer.question.image_names:
        path, view = split_words(name)
        pictures += reader.expand(ImageRef(str(reader.resolve(path)), view))
        if number < len(pictures):
            return pictures[number]
    raise UserError("the row does not name its image")


def _by_picture(answer: Answer) -> dict[int, list[tuple[str, np.ndarray]]]:
    """Return label and pixels of the masks on each picture."""
    regions = answer.outputs.masks or ()
    found: dict[int, list[tuple[str, np.ndarray]]] = {}
    names = mask_names(answer.prediction, len(regions))
    for place, (region, drawn) in enumerate(zip(regions, predicted_masks(answer), strict=True)):
        if region is not None and drawn.mask is not None and not drawn.is_empty:
            label = region.label or names[place] or f"mask {place + 1}"
            found.setdefault(region.image, []).append((label, drawn.mask))
    return found


def _free(path: Path, taken: Sequence[Path]) -> Path:
    """Return a file that no other row has."""
    endings = chain([""], (f"_{number}" for number in count(2)))
    files = (path.with_name(f"{path.name}{ending}.dcm") for ending in endings)
    return next(file for file in files if file not in taken)


def segmentation(
    image: Path,
    masks: Sequence[tuple[str, np.ndarray]],
    series_number: int = 1,
    frame: str | int | Sequence[int] = MIDDLE,
) -> Dataset:
    """Make a binary segmentation of one DICOM image, or of one frame of it.

    Args:
        image: the file that the masks were made for.
        masks: label of each segment and ``[H, W]`` bool at the image's size.
        series_number: number of the new series in the study of the image.
        frame: the frame of a file with several, as ``View.frames`` has it.

    Returns:
        The segmentation, ready to be written; its study and patient are those of the image.

    Raises:
        UserError: if the file is no DICOM image, its frames have no positions, a mask has another size, or the image
            lacks what a segmentation must refer to.
    """
    import highdicom  # pyright: ignore[reportMissingImports] - of the extra seg
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError
    from pydicom.sr.codedict import codes

    try:
        source = dcmread(image, stop_before_pixels=True)
    except (OSError, InvalidDicomError) as error:
        raise UserError(f"{image} is not a DICOM file that can be read: {error}") from None
    num_frames = int(source.get("NumberOfFrames", 1) or 1)
    if num_frames > 1 and "PerFrameFunctionalGroupsSequence" not in source:
        raise UserError(
            f"{image} has {num_frames} frames without a position of each, as a video has: no segmentation can refer to"
            " one of them"
        )
    size = source.get("Rows"), source.get("Columns")
    for label, mask in masks:
        if mask.shape != size:
            raise UserError(
                f"{image} has {size[1]} x {size[0]} pixels and the mask of '{label}' {mask.shape[1]} x {mask.shape[0]}"
            )
    numbers = choose_frames(frame, num_frames)
    drawn = np.zeros((num_frames, *masks[0][1].shape, len(masks)), np.uint8)  # [frames, H, W, segments]
    drawn[numbers[0]] = np.stack([mask for _, mask in masks], axis=-1)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="medcap", version=version("medcap"), family=codes.DCM.ArtificialIntelligence
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label[:_MOST_CHARACTERS],
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.AnatomicalStructure,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, (label, _) in enumerate(masks, start=1)
    ]
    try:
        return highdicom.seg.Segmentation(
            source_images=[source],
            pixel_array=drawn,
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=highdicom.UID(),
            series_number=series_number,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="medcap",
            manufacturer_model_name="medcap",
            software_versions=version("medcap"),
            device_serial_number="0",
            series_description="medcap: masks of answers, research only"[:_MOST_CHARACTERS],
            omit_empty_frames=num_frames > 1,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{image}: no segmentation can refer to it: {error}") from error
