"""A tower's preprocessing in the words of transformers' image processors."""

from __future__ import annotations

from typing import Any

from medcap.models.preprocess import Preprocess

_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers, which transformers uses


def image_processor_config(preprocess: Preprocess) -> dict[str, Any]:
    """``preprocessor_config.json`` of transformers.

    Its PIL backend then gives equal pixels, its torchvision backend some that are a step of 256 beside them. Both round
    half of a "shortest" crop's margin down where torchvision's transform, and so ours, rounds to an even number: a
    margin of 4 n + 3 pixels is cut one pixel apart.

    Args:
        preprocess: preprocess of a tower.
    """
    size, crops = preprocess.image_size, preprocess.resize_mode == "shortest"
    return {
        # SigLIP's processor has no crop.
        "image_processor_type": "CLIPImageProcessor" if crops else "SiglipImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size} if crops else {"height": size, "width": size},
        "resample": _RESAMPLE[preprocess.interpolation],
        **({"do_center_crop": True, "crop_size": {"height": size, "width": size}} if crops else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
