"""The C++ compiler that ``torch.compile`` needs on a CPU."""

from __future__ import annotations

import torch

from medcap.errors import UserError


def check_compiler(device: torch.device) -> None:
    """See that code can be compiled for a device, before it has cost anything.

    Args:
        device: device of the model that is to be compiled; only a CPU needs a compiler of its own.

    Raises:
        UserError: if there is no C++ compiler.
    """
    if device.type != "cpu":
        return
    from torch._inductor import cpp_builder  # a second that only compiled runs need
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        cpp_builder.get_cpp_compiler()
    except (InvalidCxxCompiler, OSError) as error:
        raise no_compiler() from error


def no_compiler() -> UserError:
    """Return the error of a machine without a C++ compiler."""
    return UserError(
        "compile=true needs a C++ compiler on a CPU, and none was found: install g++, name another one in the"
        " variable CXX, or leave compile out"
    )
