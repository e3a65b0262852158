import pytest

from helpers.warm_start import WarmStart
from helpers.workspace import Workspace


@pytest.fixture(scope="session")
def server():
    """Starts training processes in a fraction of a second."""
    with WarmStart() as server:
        yield server


@pytest.fixture
def workspace(tmp_path):
    """A model, pictures and records to train on."""
    return Workspace(tmp_path)
