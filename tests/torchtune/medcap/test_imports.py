import ast
from pathlib import Path

import medcap

ROOT = Path(medcap.__file__).parent
REPOSITORY = ROOT.parent.parent
# Lower floors may not import higher ones; parts of one floor that do not know each other stand in the same set.
FLOORS = (
    {"modules"},
    {"models", "data"},
    {"checkpoints", "datasets"},
    {"generation"},
    {"evaluation", "training"},
    {"chat", "demo", "export", "importing", "probe", "serving", "sweep"},
    {"commands"},
    {"cli", "recipes"},
)
FOR_ALL = {"argument_types", "configs", "configuration", "errors", "overrides", "reporting", "workers"}


def floor_of(part):
    return next(number for number, parts in enumerate(FLOORS) if part in parts)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name.split(".")[1] for name in names if name and name.startswith("medcap."))


def test_imports_point_one_way():
    wrong = []
    for path in [*ROOT.rglob("*.py"), *(REPOSITORY / "recipes").glob("*.py")]:
        part = "recipes" if path.is_relative_to(REPOSITORY / "recipes") else path.relative_to(ROOT).parts[0]
        part = part.removesuffix(".py")
        if part in FOR_ALL | {"__init__"}:
            continue
        for imported in set(imports(path)) - FOR_ALL:
            strangers = {part, imported} in ({"training", "generation"}, {"training", "evaluation"})
            if floor_of(imported) > floor_of(part) or strangers or imported == "recipes":
                wrong.append(f"{path.relative_to(REPOSITORY)} imports medcap.{imported}")
    assert wrong == []


def test_folders_that_would_shadow_installed_packages_are_none():
    for name in ("torchtune", "datasets", "results"):
        assert not (REPOSITORY / name / "__init__.py").exists()


def test_no_file_hides_more_than_one_subject():
    files = [*ROOT.rglob("*.py"), *(REPOSITORY / "recipes").glob("*.py")]
    assert [str(path) for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 400] == []


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
