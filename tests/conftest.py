import gc
import os
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# What every test of a folder is. The others say it themselves.
MARKS = {
    "recipes": ("slow",),
    "benchmarks": ("slow",),
    "browser": ("browser", "slow", "processes"),
    "gpu": ("gpu", "slow"),
}
# Fixtures that start processes.
STARTERS = {"server"}
SERVER = pytest.StashKey()


def pytest_configure(config):
    # Workers that share the processors compute with one thread each; a test's own processes inherit it.
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        for name in MARKS.get(folder, ()):
            item.add_marker(name)
        if STARTERS & set(item.fixturenames):
            item.add_marker("processes")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    # Imports make millions of objects that stay. To look through them again and again takes seconds, now and later.
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    # Everything is imported, and the server does not inherit what tests do.
    if not session.config.option.collectonly and any("server" in item.fixturenames for item in session.items):
        from helpers.warm_start import WarmStart

        session.config.stash[SERVER] = WarmStart()


def pytest_sessionfinish(session):
    if SERVER in session.config.stash:
        session.config.stash[SERVER].close()


@pytest.fixture(scope="session")
def server(pytestconfig):
    """Starts processes in a fraction of a second."""
    return pytestconfig.stash[SERVER]


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """Keep what datasets remember of files out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDCAP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
