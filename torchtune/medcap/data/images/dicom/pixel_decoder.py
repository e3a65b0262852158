"""pydicom's decoders."""

from __future__ import annotations

from typing import Any

import numpy as np

from medcap.errors import UserError


def decode(source: Any, syntax: Any, frame: int, **options: Any) -> np.ndarray:
    """Decode a frame by pydicom, its unused bits and its colours left as they are.

    Args:
        source: a dataset; or its encapsulated pixels, with all the options that decoding needs.
        syntax: its transfer syntax.
        frame: which frame.
        options: those of pydicom's decoders, in place of what the dataset says.

    Returns:
        ``[rows, columns]`` or ``[rows, columns, samples]``, of the type and byte order that it is stored in.

    Raises:
        UserError: if a decoder crashes. Whatever pydicom and its decoders raise.
    """
    from pydicom.pixels.decoders.base import get_decoder

    try:
        decoder: Any = get_decoder(syntax)
        return decoder.as_array(source, index=frame, raw=True, correct_unused_bits=False, **options)[0]
    except BaseException as error:
        # A decoder in Rust that panics raises a BaseException, which would end the run.
        if type(error).__name__ == "PanicException":
            raise UserError(f"is damaged: its decoder failed ({error})") from error
        raise
