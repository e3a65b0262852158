import pytest

from helpers.serving import running, tiny_service


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def service(folder):
    return tiny_service(folder)


@pytest.fixture(scope="module")
def client(service):
    with running(service) as client:
        yield client
