"""What ``torch.compile`` needs on a CPU: a C++ compiler, and the number of threads to compile for."""

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


def compile_for_own_threads() -> None:
    """Have torch compile CPU code for as many threads as there are now.

    It keeps compiled code on disk, and looks it up by what is compiled and by this setting. With its own value, 0 or
    less, a run with one thread leaves code that later runs with more threads find, and use only one.
    """
    from torch._inductor import config as compiler_config  # a second that most commands do not need

    compiler_config.cpp.threads = torch.get_num_threads()
