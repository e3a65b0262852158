import base64
import time

import pytest

from medcap.serving.api.api_error import ApiError
from medcap.serving.api.data_url import read_data_url

DATA = bytes(range(256)) + b"?"  # both signs of the alphabet, and padding
TEXT = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "head",
    [
        "data:image/png;base64,",
        "data:;base64,",
        "DATA:IMAGE/PNG;BASE64,",
        "data:image/png;Base64,",
        "data:text/plain;charset=utf-8;base64,",
        'data:image/png;name="a, b;c.png";base64,',
        "data:image/svg+xml; charset=utf-8; base64 ,",
        "data:application/dicom;name=a%20b.dcm;base64,",
        "\n data:image/png;base64,",
    ],
)
def test_scheme_and_marker_are_read_in_any_spelling(head):
    assert read_data_url(head + TEXT, "url") == DATA


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.rstrip("="),
        base64.urlsafe_b64encode(DATA).decode(),
        base64.urlsafe_b64encode(DATA).decode().rstrip("="),
        base64.encodebytes(DATA).decode(),
        TEXT.replace("A", "A\r\n"),
        f"  {TEXT}\n",
        TEXT.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        TEXT[:40] + "\t \f" + TEXT[40:],
    ],
)
def test_base64_is_read_as_browsers_and_libraries_write_it(text):
    assert read_data_url(f"data:image/png;base64,{text}", "url") == DATA


def test_no_data_is_no_bytes():
    assert read_data_url("data:;base64,", "url") == b""


@pytest.mark.parametrize(
    "text", ["A", "AAAAA", "AA=A", "A===", "\u00c4\u00c4\u00c4\u00c4", "AA!A", "%zz", TEXT + "*", "AA,A"]
)
def test_damaged_base64_is_refused(text):
    with pytest.raises(ApiError, match=r"^'url' holds no valid base64$") as raised:
        read_data_url(f"data:image/png;base64,{text}", "url")
    assert raised.value.code == "invalid_base64"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "data:",
        "data:image/png,abc",
        "data:image/png;base64",
        "data:base64,AAAA",
        'data:image/png;name="a;base64,AAAA',
        "http://example.org/a.png",
        "file:///data:image/png;base64,AAAA",
        "data:" + "a" * 2000 + ";base64,AAAA",
    ],
)
def test_other_urls_are_refused_with_what_is_taken(url):
    with pytest.raises(ApiError, match="must be a data URL with base64") as raised:
        read_data_url(url, "url")
    assert raised.value.code == "unsupported_image_url"


@pytest.mark.parametrize("url", ["data:" + ";a=b" * 10**6, 'data:"' * 10**6, "data:" + ";base64 " * 10**6])
def test_no_url_takes_long(url):
    began = time.perf_counter()
    with pytest.raises(ApiError):
        read_data_url(url, "url")
    assert time.perf_counter() - began < 60
