"""How the run that a model comes from writes boxes."""

from __future__ import annotations

from medcap.checkpoints.build_model import OpenedModel
from medcap.checkpoints.run import read_dataset_keys
from medcap.data.boxes.style import BoxStyle, box_style


def run_box_style(opened: OpenedModel, run: str | None) -> BoxStyle | None:
    """Return how the boxes of a box head are written into its answers.

    Args:
        opened: the model.
        run: run that brings its components, as ``vision_checkpoint``.

    Returns:
        The style of the run's data; None for a model without a box head, or without a run.
    """
    if run is None or not opened.model.reads_patches:
        return None
    return box_style(read_dataset_keys(run), opened.preprocess.frame)
