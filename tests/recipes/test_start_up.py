"""What the programs import: a library that a run does not use must not make it start later."""

import importlib.util
import subprocess
import sys

import pytest

from helpers.waiting import PATIENCE
from helpers.workspace import Workspace, run_arguments

pytestmark = pytest.mark.processes

NOT_FOR_TRAINING = {
    "accelerate",
    "bitsandbytes",
    "imagehash",
    "nibabel",
    "nltk",
    "open_clip",
    "openai",
    "pycocoevalcap",
    "pydicom",
    "scipy",
    "timm",
    "torch._inductor.compile_fx",
    "torchvision",
    "transformers",
}
NOT_FOR_LISTING = NOT_FOR_TRAINING | {"numpy", "omegaconf", "pandas", "PIL", "pyarrow", "torch", "torchtune", "tqdm"}


def modules_after(code: str, *arguments: str) -> set[str]:
    """Names of modules that a program prints last."""
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("name", sorted(NOT_FOR_LISTING))
def test_the_names_above_are_those_of_installed_modules(name):
    assert importlib.util.find_spec(name) is not None


def test_listing_imports_nothing_heavy():
    code = "import sys; from medcap.cli import main; main(['ls']); print(*sys.modules)"
    assert modules_after(code) & NOT_FOR_LISTING == set()


def test_a_training_run_imports_nothing_that_it_does_not_use(tmp_path):
    # What tune imports is not medcap's to choose: Hugging Face's datasets, for one, take nibabel along where it is.
    code = (
        "import sys; from torchtune._cli.tune import main; before = set(sys.modules)\n"
        "try: main()\n"
        "finally: print(*sys.modules.keys() - before)"
    )
    imported = modules_after(code, *run_arguments(*Workspace(tmp_path).training()))
    assert "medcap.training.trainer" in imported
    assert imported & NOT_FOR_TRAINING == set()
