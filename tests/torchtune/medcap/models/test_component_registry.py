import subprocess
import sys

import pytest

import medcap.models


def test_components_are_found_by_the_names_that_configurations_use():
    from torchtune.config._utils import _get_component_from_path

    from medcap.models.projectors.mlp import mlp

    assert _get_component_from_path("medcap.models.mlp") is mlp
    assert medcap.models.pooled_mlp.__module__ == "medcap.models.projectors.pooled_mlp"
    assert {"mlp", "pooled_mlp"} <= set(dir(medcap.models))


def test_an_unknown_component_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = medcap.models.nothing


@pytest.mark.processes
def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, medcap.models; print([name for name in ('torch', 'transformers', 'timm') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
