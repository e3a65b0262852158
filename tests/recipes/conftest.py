import pytest

from helpers.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    """A model, pictures and records to train on."""
    return Workspace(tmp_path)
