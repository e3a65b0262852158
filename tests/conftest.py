import pytest


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """Keep what datasets remember of files out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDCAP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
