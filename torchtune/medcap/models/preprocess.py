"""How an image becomes the square picture that an encoder is shown."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, Resampling
from PIL.Image import new as new_image
from torch import Tensor

from medcap.data.boxes.box import Size
from medcap.data.boxes.frame import MAX_ASPECT, MAX_PADDED, Frame, corner_size
from medcap.data.images.tiles import Tiles, refuse_fit
from medcap.errors import UserError

# Normalisation constants: OpenAI CLIP's, those of ImageNet, and the 0.5 of SigLIP.
Channels = tuple[float, float, float]  # red, green, blue
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a tower's input.

    Attributes:
        image_size: height and width in pixels.
        mean: means of the red, green and blue channels, on the scale 0 to 1.
        std: standard deviations of the channels, on the same scale, above 0.
        interpolation: "bicubic" or "bilinear", with antialiasing.
        resize_mode: "shortest" resizes the short side and crops the centre, "squash" resizes both sides, "pad_corner"
            resizes the long side and fills the square up with the mean colour at the right and the bottom.
        tiles: most crops of an image, which :class:`medcap.data.images.tiles.Tiles` then shows in several pictures; 0
            shows each image in one picture.
        usual_fit: how an image becomes square whose view does not say it, as ``View.fit``: for a run's answers, that of
            its training data. It is no property of a tower, and not saved with it.
    """

    image_size: int
    mean: Channels = CLIP_MEAN
    std: Channels = CLIP_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    tiles: int = 0
    usual_fit: str | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.image_size, int) and not isinstance(self.image_size, bool)
        if not whole or self.image_size < 1:
            raise UserError(f"preprocess: image_size={self.image_size!r} must be one positive whole number")
        for name in ("mean", "std"):
            object.__setattr__(self, name, channel_values(f"preprocess: {name}", getattr(self, name)))
        if min(self.std) <= 0:
            raise UserError(f"preprocess: std={list(self.std)} must be above 0")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise UserError(f"preprocess: interpolation={self.interpolation!r} must be bicubic or bilinear")
        if self.resize_mode not in ("shortest", "squash", "pad_corner"):
            raise UserError(f"preprocess: resize_mode={self.resize_mode!r} must be shortest, squash or pad_corner")
        if not isinstance(self.tiles, int) or isinstance(self.tiles, bool) or self.tiles < 0 or self.tiles == 1:
            raise UserError(f"preprocess: tiles={self.tiles!r} must be a whole number from 2, or 0 for none")

    @property
    def tiling(self) -> Tiles | None:
        """How an image is cut into several pictures; None where each is one."""
        return Tiles(self.image_size, self.tiles) if self.tiles else None

    def transform(self) -> ImageTransform | TileTransform:
        """Return the function from an RGB or grey image to its uint8 pixels; it can be pickled.

        Returns:
            It makes ``[3, image_size, image_size]``, or with ``tiles`` ``[n, 3, image_size, image_size]``.
        """
        return TileTransform(self) if self.tiles else ImageTransform(self)

    def frame(self, size: Size, fit: str | None = None) -> Frame:
        """Return where the parts of an image lie in the square that the tower is shown.

        Args:
            size: width and height of the image in pixels.
            fit: as the view of the image says it; None for as the tower does it. With ``tiles`` the square is that of
                the whole image.
        """
        own = {"shortest": "crop"}.get(self.resize_mode, self.resize_mode)
        return Frame(size, "squash" if self.tiles else fit or self.usual_fit or own, self.image_size)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Scale to 0..1, subtract the mean, divide by the deviation; on the CPU equal to torchvision's bit for bit.

        It belongs to the model and not to the transform: 8-bit pixels are a quarter of the bytes that workers hand over
        and a GPU is sent.

        Args:
            pixels: ``[N, 3, H, W]`` uint8, as the transform returns them.

        Returns:
            ``[N, 3, H, W]`` float32 on the same device.

        Raises:
            TypeError: for other pixels than uint8; what is normalised already would be normalised again.
        """
        if pixels.dtype != torch.uint8:
            raise TypeError(f"expected the transform's uint8 pixels, got {pixels.dtype}")
        mean, std = (_channels(values, pixels.device) for values in (self.mean, self.std))
        return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in self.__dict__.items()}
        # Without tiles it is what earlier releases write and read.
        return {key: value for key, value in values.items() if key != "usual_fit" and (key != "tiles" or value)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """Return the inverse of :meth:`to_dict`.

        Raises:
            UserError: for a field that is unknown, missing or impossible.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"preprocess: {error}") from error


def channel_values(name: str, value: Any) -> Channels:
    """Check the numbers of the three channels.

    Args:
        name: what they are, for messages.
        value: three numbers, or one for all three; 0 is a number.

    Raises:
        UserError: for anything else.
    """
    values = [value] * 3 if isinstance(value, int | float) else value
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(_is_number, values)):
        raise UserError(f"{name}={value!r} must be three numbers, or one")
    red, green, blue = values
    return red, green, blue


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@functools.lru_cache
def _channels(values: Channels, device: torch.device) -> Tensor:
    """Return a number for each channel: ``[3, 1, 1]`` float32; kept, because a copy to a GPU waits for it."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)


@dataclass(frozen=True)
class ImageTransform:
    """Resize and crop; with ``Preprocess.normalize`` equal to open_clip's validation transform bit for bit."""

    preprocess: Preprocess

    def __call__(self, image: Image, fit: str | None = None) -> Tensor:
        """Transform one image.

        Args:
            image: mode RGB, or L for three equal channels; any size.
            fit: how it becomes square, one of ``medcap.data.images.views.FITS``; None for ``usual_fit``, or else as the
                tower does it.

        Returns:
            ``[3, image_size, image_size]`` uint8.

        Raises:
            ValueError: for other modes; what a conversion would do to them must be decided before.
        """
        _check_mode(image)
        fit = fit or self.preprocess.usual_fit
        if fit in ("pad", "pad_mean"):
            image = self._pad(image, black=fit == "pad")
        mode = {None: self.preprocess.resize_mode, "crop": "shortest", "pad_corner": fit}.get(fit, "squash")
        if mode == "pad_corner":
            return _pixels(self._lay_in_corner(image))
        return _pixels(self._resize(image, mode))

    def _lay_in_corner(self, image: Image) -> Image:
        """Resize the long side, and fill up with what is nearly 0 once it is normalised: SAM pads after that."""
        side = self.preprocess.image_size
        size = corner_size(image.size, side)
        if image.size != size:
            image = image.resize(size, Resampling[self.preprocess.interpolation.upper()])
        if size == (side, side):
            return image
        square = new_image(
            "RGB", (side, side), tuple(min(255, max(0, round(mean * 255))) for mean in self.preprocess.mean)
        )
        square.paste(image, (0, 0))
        return square

    def _pad(self, image: Image, black: bool) -> Image:
        """Lay an image in the middle of a square, as LLaVA's expand2square: black, or of the tower's mean colour."""
        if image.width == image.height:
            return image
        longest = max(image.size)
        if longest > MAX_PADDED:
            width, height = (max(1, round(side * MAX_PADDED / longest)) for side in image.size)
            image = image.resize((width, height), Resampling.BICUBIC)
        if not black:
            image = image.convert("RGB")
        side = max(image.size)
        colour = 0 if black else tuple(int(mean * 255) for mean in self.preprocess.mean)
        square = new_image(image.mode, (side, side), colour)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square

    def _resize(self, image: Image, mode: str) -> Image:
        """Resize and crop to ``image_size``, rounding as torchvision does on Pillow images."""
        size = self.preprocess.image_size
        width, height = size, size
        if mode == "shortest":
            image = _middle_of_strip(image)
            width, height = (size * side // min(image.size) for side in image.size)
        if image.size != (width, height):
            image = image.resize((width, height), Resampling[self.preprocess.interpolation.upper()])
        if (width, height) == (size, size):
            return image
        left, top = round((width - size) / 2), round((height - size) / 2)
        return image.crop((left, top, left + size, top + size))


@dataclass(frozen=True)
class TileTransform:
    """Resize and cut an image into the pictures of :class:`medcap.data.images.tiles.Tiles`."""

    preprocess: Preprocess

    def __call__(self, image: Image, fit: str | None = None) -> Tensor:
        """Transform one image.

        Args:
            image: as for :class:`ImageTransform`.
            fit: None; the tiles show all of an image, whatever its shape.

        Returns:
            ``[n, 3, image_size, image_size]`` uint8; n depends on the image's shape alone.

        Raises:
            UserError: if there is a ``fit``.
            ValueError: as :class:`ImageTransform`.
        """
        _check_mode(image)
        tiling = self.preprocess.tiling
        refuse_fit(fit, tiling)
        assert tiling is not None, "it is made where there are tiles"
        return torch.stack(list(map(_pixels, tiling.cut(image, Resampling[self.preprocess.interpolation.upper()]))))


def _check_mode(image: Image) -> None:
    if image.mode not in ("RGB", "L"):
        raise ValueError(f"expected an RGB or grey image, got mode {image.mode}")


def _pixels(image: Image) -> Tensor:
    """Return a picture of mode RGB or L as ``[3, H, W]`` uint8."""
    pixels = torch.from_numpy(np.array(image))  # [H, W, 3] or [H, W]
    return pixels.repeat(3, 1, 1) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _middle_of_strip(image: Image) -> Image:
    """Cut off what lies far outside the centre crop: resizing a long strip would fill the memory."""
    longest = MAX_ASPECT * min(image.size)
    left, top = (max(0, side - longest) // 2 for side in image.size)
    if left == top == 0:
        return image
    return image.crop((left, top, image.width - left, image.height - top))
