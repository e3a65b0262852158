import ast
from pathlib import Path

import pytest

import medcap

ROOT = Path(medcap.__file__).parent
REPOSITORY = ROOT.parent.parent


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        yield from names + ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])


@pytest.mark.slow
def test_nothing_imports_a_recipe():
    # The direction of all other imports is held by import-linter: see pyproject.toml.
    files = [
        path for path in ROOT.rglob("*.py") if any(str(name).startswith("medcap.recipes") for name in imports(path))
    ]
    assert files == []


def test_folders_that_would_shadow_installed_packages_are_none():
    for name in ("torchtune", "datasets", "results"):
        assert not (REPOSITORY / name / "__init__.py").exists()


def test_no_file_hides_more_than_one_subject():
    files = [*ROOT.rglob("*.py"), *(REPOSITORY / "recipes").glob("*.py")]
    assert [str(path) for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 400] == []


@pytest.mark.slow
def test_nothing_dangerous_is_called():
    calls = []
    for path in [*ROOT.rglob("*.py"), *(REPOSITORY / "recipes").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                unsafe_load = name == "torch.load" and keywords.get("weights_only") != "True"
                unsafe_flag = "True" in (keywords.get("shell"), keywords.get("trust_remote_code"))
                if unsafe_load or unsafe_flag or name in ("eval", "exec", "pickle.load", "pickle.loads"):
                    calls.append(f"{path.name}:{node.lineno} {name}")
    assert calls == []
