"""A script in the folder that holds the clone imports the package, not a folder of its name."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOOK = """
import medcap, medcap.errors, medcap.recipes, medcap.configs
from importlib.resources import files
assert callable(medcap.hide_torchao_notice)
print(medcap.__file__, medcap.errors.__file__, files("medcap.report") / "templates", sep="\\n")
"""


def look(folder, *arguments):
    (folder / "look.py").write_text(LOOK)
    command = [sys.executable, *arguments, "look.py"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_the_clone_is_the_package(tmp_path):
    (tmp_path / "medcap").symlink_to(ROOT)
    package, errors, templates = look(tmp_path)
    assert Path(package).samefile(ROOT / "torchtune/medcap/__init__.py")
    assert Path(errors).samefile(ROOT / "torchtune/medcap/errors.py")
    assert (Path(templates) / "style.css").is_file()


def test_without_an_installation_too(tmp_path):
    """``-S`` leaves out what is installed."""
    (tmp_path / "medcap").symlink_to(ROOT)
    code = "import sys; sys.path.insert(0, '.'); import medcap.errors; print(medcap.errors.__file__)"
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert Path(ended.stdout.strip()).samefile(ROOT / "torchtune/medcap/errors.py")


def test_an_installed_wheel_comes_first(tmp_path):
    (tmp_path / "medcap").symlink_to(ROOT)
    site = tmp_path / "site"
    (site / "medcap").mkdir(parents=True)
    (site / "medcap/__init__.py").write_text("installed = True\n")
    code = f"import sys; sys.path.append({str(site)!r}); import medcap; print(medcap.installed, medcap.__path__)"
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.stdout.strip() == f"True {[str(site / 'medcap')]!r}", ended.stderr
