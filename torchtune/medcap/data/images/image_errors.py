"""Errors that say which image they are about."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path

from PIL import Image

from medcap.data.images.roots import LimitKeys
from medcap.errors import TooManyPixelsError, UserError, ViewError, is_of_the_machine


@contextlib.contextmanager
def image_errors(path: str | Path, max_pixels: int, keys: LimitKeys) -> Generator[None]:
    """Say which image an error is about, whatever it is: no list covers what damaged files make decoders raise.

    Args:
        path: the image.
        max_pixels: the limit, for messages.
        keys: what messages call it.

    Raises:
        UserError: in place of any error, except those of the machine.
    """
    limit = f" ({keys.pixels})" if keys.pixels else ""
    try:
        yield
    except TooManyPixelsError as error:
        raise UserError(f"image {path} {error}{limit}") from error
    except ViewError as error:
        raise ViewError(f"image {path} {error}") from error
    except UserError as error:
        raise UserError(f"image {path} {error}") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"image {path} has more than the {max_pixels:,} pixels allowed{limit}") from error
    except Exception as error:
        if is_of_the_machine(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        # The system's errors have a number, decoders' errors have none.
        trouble = "cannot be opened" if isinstance(error, OSError) and error.errno else "is damaged"
        raise UserError(f"image {path} {trouble}: {reason}") from error
