import pytest
import torch
from torch._inductor import config, cpp_builder
from torch._inductor.exc import InvalidCxxCompiler

from medcap.compiler import check_compiler, compile_for_own_threads
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


def test_code_compiled_for_other_numbers_of_threads_is_not_taken(monkeypatch):
    monkeypatch.setattr(config.cpp, "threads", -1)

    def looked_up_by(threads):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        compile_for_own_threads()
        # What torch keeps compiled code under (FxGraphHashDetails in torch/_inductor/codecache.py), beside the code.
        return config.save_config_portable(ignore_private_configs=False)

    assert looked_up_by(3) == looked_up_by(3) != looked_up_by(2)
