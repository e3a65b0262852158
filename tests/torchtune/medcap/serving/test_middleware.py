import re

import pytest
from starlette.responses import HTMLResponse
from starlette.routing import Route

from helpers.serving import asking, noise_png, running, tiny_service
from medcap.serving.middleware import LOOPBACK_NAMES

SECRET = "a very private question"


def page(request):
    return HTMLResponse("<h1>page</h1>", headers={"content-security-policy": "default-src 'self'"})


def broken(request):
    raise ValueError(f"{SECRET} in /home/somebody/file.py")


@pytest.fixture(scope="module")
def local(folder):
    """A server as on loopback, with a page and a route that fails."""
    routes = [Route("/page", page), Route("/broken", broken)]
    with running(tiny_service(folder), allowed_hosts=[*LOOPBACK_NAMES, "Box.example"], routes=routes) as client:
        yield client


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1", "[::1]:80", "LOCALHOST.", "box.example"])
def test_own_names_are_answered(local, host):
    assert local.request("GET", "/v1/models", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", "", "[::2]"]
)
def test_a_name_that_was_rebound_to_this_machine_is_refused(local, host):
    reply = local.request("GET", "/v1/models", headers={"Host": host})
    assert (reply.status, reply.error["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_sites_are_refused_and_told_nothing(local, headers):
    for reply in (
        local.chat(asking("Is there a circle?"), headers={"Host": "localhost:8000", **headers}),
        local.request("OPTIONS", "/v1/chat/completions", headers={"Host": "localhost:8000", **headers}),
    ):
        assert (reply.status, reply.error["code"]) == (403, "origin_not_allowed")
        assert not any(name.startswith("access-control-") for name in reply.headers)


def test_the_own_page_may_ask(local):
    headers = {"Host": "localhost:8000", "Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}
    assert local.chat(asking("Is there a circle?", max_tokens=1), headers=headers).status == 200


def test_replies_carry_headers_that_a_page_can_change(local):
    for path, policy in (("/health", "default-src 'none'; frame-ancestors 'none'"), ("/page", "default-src 'self'")):
        headers = local.request("GET", path).headers
        assert headers["content-security-policy"] == policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["x-request-id"].startswith("req-")
        assert "server" not in headers


def test_a_failure_tells_its_id_and_nothing_else(local, caplog):
    reply = local.request("GET", "/broken")
    assert (reply.status, reply.error["code"]) == (500, "failed")
    assert SECRET not in reply.body.decode()
    assert reply.headers["x-request-id"] in reply.error["message"]
    logged = [record for record in caplog.records if reply.headers["x-request-id"] in record.getMessage()]
    assert any(record.exc_info for record in logged)


def test_every_request_is_one_line_without_content_or_key(folder, caplog):
    with caplog.at_level("INFO", "medcap"), running(tiny_service(folder), keys=["the-key"]) as client:
        replies = [
            client.chat(asking(SECRET, noise_png(1), max_tokens=2)),
            client.request("GET", f"/{SECRET.replace(' ', '%0a')}?{SECRET.replace(' ', '+')}"),
        ]
    # The module's other server may still be logging, so lines are found by the ids of these requests.
    logged = [record.getMessage() for record in caplog.records if record.name == "medcap.serving"]
    ids = [reply.headers["x-request-id"] for reply in replies]
    lines = [line for request_id in ids for line in logged if line.startswith(request_id)]
    assert len(lines) == 2
    assert re.match(rf"{ids[0]} /v1/chat/completions status=200 seconds=\d+\.\d+ ", lines[0])
    assert lines[0].partition(" model=")[2] == "tiny images=1 prompt=37 generated=2 finish=length"
    assert " unknown status=404 seconds=" in lines[1]
    assert "private" not in caplog.text and "the-key" not in caplog.text
