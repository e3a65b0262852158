from email.utils import formatdate
from types import SimpleNamespace

import pytest

from medcap.language_models import pauses
from medcap.language_models.pauses import asked_pause


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "15"}, 15),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-reset-tokens": "1m2.5s"}, 62.5),
        ({"x-ratelimit-reset-requests": "20ms", "x-ratelimit-reset-tokens": "1h"}, 3600),
        (
            {
                "x-ratelimit-reset-requests": "2s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "1h",
                "x-ratelimit-remaining-tokens": "70",
            },
            2,
        ),
        ({"x-ratelimit-reset": "30"}, 30),
        ({"retry-after": "7", "x-ratelimit-reset": "30"}, 7),
    ],
)
def test_the_pause_is_read_from_each_header(headers, seconds):
    assert asked_pause(headers) == pytest.approx(seconds)


def test_a_date_and_a_moment_are_pauses_from_now(monkeypatch):
    now = 1_800_000_000
    monkeypatch.setattr(pauses, "time", SimpleNamespace(time=lambda: now))
    assert asked_pause({"retry-after": formatdate(now + 40, usegmt=True)}) == 40
    assert asked_pause({"x-ratelimit-reset": f"{now + 40}"}) == 40
    assert asked_pause({"x-ratelimit-reset": f"{1000 * (now + 40)}"}) == 40


@pytest.mark.parametrize("text", ["", "soon", "-3", "0", "nan", "inf", "Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 99 Foo"])
@pytest.mark.parametrize("name", ["retry-after", "retry-after-ms", "x-ratelimit-reset"])
def test_what_is_not_a_pause_is_passed_over(name, text):
    assert asked_pause({name: text}) is None
    assert asked_pause({}) is None
