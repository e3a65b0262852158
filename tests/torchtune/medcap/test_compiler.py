import pytest
import torch
from torch._inductor import cpp_builder
from torch._inductor.exc import InvalidCxxCompiler

from medcap.compiler import check_compiler
from medcap.errors import UserError


@pytest.mark.parametrize("error", [InvalidCxxCompiler, PermissionError])
def test_a_machine_without_a_compiler_is_named(monkeypatch, error):
    def missing():
        raise error

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    check_compiler(torch.device("cuda"))
    with pytest.raises(UserError, match=r"^compile=true needs a C\+\+ compiler on a CPU, and none was found"):
        check_compiler(torch.device("cpu"))


def test_a_compiler_that_is_there_is_enough(monkeypatch):
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", lambda: "g++")
    check_compiler(torch.device("cpu"))
