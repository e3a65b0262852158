import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_folder_of_code_or_data_is_a_package():
    """setuptools warns of a folder that is none, and a wheel would lack it one day."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {"medcap.recipes"}
    for name, home in (("medcap", "torchtune/medcap"), ("medcap.configs", "configs")):
        files = [path for path in (ROOT / home).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        found |= {".".join([name, *path.parent.relative_to(ROOT / home).parts]) for path in files}
    assert set(setuptools["packages"]) - {"medcap.configs"} == found - {"medcap.configs"}
