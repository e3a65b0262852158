"""The wheel alone is the whole package: it is installed where nothing else of this repository is, and used there."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers.source_copy import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.processes]

# Folder of the repository -> folder of the package.
SOURCES = {"torchtune/medcap": "medcap", "recipes": "medcap/recipes", "configs": "medcap/configs"}
TINY = """
output_dir: ./run
device: cpu
"""


def run(*words, folder, **environment):
    """Run a program; returns what it printed on both streams."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that MEDCAP_WHEEL names, or one that is built from a copy of the source without a network."""
    if "MEDCAP_WHEEL" in os.environ:
        return Path(os.environ["MEDCAP_WHEEL"])
    import setuptools

    if int(setuptools.__version__.partition(".")[0]) < 77:
        pytest.skip("setuptools is older than the package needs: install the extra dev")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", *options, source, folder=source)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of an environment that has the wheel, and sees the dependencies of this one."""
    venv = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", venv, folder=venv)
    python = venv / "bin" / "python"
    install = ("install", "--quiet", "--no-deps", "--no-index", wheel)
    run(sys.executable, "-m", "pip", "--python", python, *install, folder=venv)
    # Folders on the path only: what makes this repository's package importable there is not looked at.
    own = Path(next((venv / "lib").iterdir())) / "site-packages"
    (own / "dependencies.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
    return python


@pytest.fixture
def away(tmp_path):
    """A folder that has nothing to do with the repository, with a small configuration in it."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


def test_it_holds_every_file_of_the_source_and_no_other(wheel):
    expected = {
        f"{package}/{path.relative_to(REPOSITORY / source).as_posix()}"
        for source, package in SOURCES.items()
        for path in (REPOSITORY / source).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected
    assert {"medcap/py.typed", "medcap/report/templates/page.html.j2", "medcap/serving/page/page.js"} < names


def test_its_packages_are_the_folders_with_python_files(wheel):
    folders = {
        "/".join([package, *path.parent.relative_to(REPOSITORY / source).parts])
        for source, package in SOURCES.items()
        for path in (REPOSITORY / source).rglob("*.py")
    }
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.rpartition("/")[0] for name in names if name.endswith("/__init__.py")} == folders


def test_it_is_the_package_that_is_imported(python, away):
    printed = run(
        python, "-c", "import medcap, medcap.recipes; print(medcap.__file__, *medcap.recipes.__path__)", folder=away
    )
    assert all(Path(name).is_relative_to(python.parents[1]) for name in printed.split())


def test_its_command_lists_and_helps(python, away):
    medcap = python.parent / "medcap"
    listed = run(medcap, "ls", folder=away)
    configs = [
        f"medcap/{path.relative_to(REPOSITORY / 'configs').with_suffix('')}"
        for path in REPOSITORY.glob("configs/**/*.yaml")
    ]
    assert len(configs) > 5 and [name for name in configs if name not in listed] == []
    assert "whole way on drawn images" in run(medcap, "--help", folder=away)
    assert "folder for everything" in run(medcap, "demo", "--help", folder=away)
    run(medcap, "cp", "medcap/tiny/single_device", "mine.yaml", folder=away)
    assert (away / "mine.yaml").read_text() == (REPOSITORY / "configs/tiny/single_device.yaml").read_text()


@pytest.mark.parametrize("recipe", ["full_finetune_single_device", "generate"])
def test_tune_starts_its_recipes(python, away, recipe):
    tune = [python, "-c", "from torchtune._cli.tune import main; main()", "run", f"medcap/recipes/{recipe}"]
    printed = run(*tune, "--config", "tiny.yaml", "--help", folder=away)
    assert re.search(r"Entry point:|usage:", printed)


def test_it_finds_its_templates_and_its_page(python, away):
    program = """
from importlib.resources import files
from medcap.report.templates import render

print(len(files("medcap.serving").joinpath("page", "index.html").read_text()) > 1000)
print(render("notices.html.j2", section={"lines": ["a < b"]}))
"""
    printed = run(python, "-c", program, folder=away)
    assert printed.startswith("True") and "a &lt; b" in printed
