import argparse

import pytest

from medcap.commands.arguments import refuse_options_as_keys
from medcap.errors import UserError


@pytest.mark.parametrize(
    "word,told", [("cuda_graphs=true", "cuda_graphs: use --cuda-graphs;"), ("compile=1", "compile: use --compile;")]
)
def test_a_key_that_is_an_option_of_the_command_is_named(word, told):
    options = argparse.Namespace(compile=False, cuda_graphs=False, without=[])
    refuse_options_as_keys(["device=cpu", "without=[llm_lora]"], options)
    with pytest.raises(UserError, match=told):
        refuse_options_as_keys(["device=cpu", word], options)
    refuse_options_as_keys([word], argparse.Namespace())
