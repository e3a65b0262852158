"""What the programs import: a library that a run does not use must not make it start later."""

import importlib.util
import subprocess
import sys

import pytest

from helpers.workspace import Workspace, run_arguments

# Without pandas, datasets, pyarrow, sympy and triton, which torchtune imports itself.
NOT_FOR_TRAINING = {
    "accelerate",
    "bitsandbytes",
    "imagehash",
    "nltk",
    "open_clip",
    "openai",
    "pycocoevalcap",
    "scipy",
    "timm",
    "torch._inductor.compile_fx",
    "torchvision",
    "transformers",
}
NOT_FOR_LISTING = NOT_FOR_TRAINING | {"numpy", "omegaconf", "pandas", "PIL", "pyarrow", "torch", "torchtune", "tqdm"}


def imports_of(program: str, *arguments: str) -> set[str]:
    """Names of the modules that a program of its own process has imported when it ends."""
    code = f"import atexit, sys; atexit.register(lambda: print('MODULES', *sys.modules)); {program}"
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("name", sorted(NOT_FOR_LISTING))
def test_the_names_below_are_those_of_installed_modules(name):
    assert importlib.util.find_spec(name) is not None


def test_listing_imports_nothing_heavy():
    assert imports_of("from medcap.cli import main; main()", "ls") & NOT_FOR_LISTING == set()


def test_a_training_run_imports_nothing_that_it_does_not_use(tmp_path):
    arguments = run_arguments(*Workspace(tmp_path).training())
    imported = imports_of("from torchtune._cli.tune import main; main()", *arguments)
    assert "medcap.training.trainer" in imported
    assert imported & NOT_FOR_TRAINING == set()
