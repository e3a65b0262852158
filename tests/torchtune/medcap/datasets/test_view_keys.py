import pytest

from medcap.datasets.source_keys import check_sources
from medcap.datasets.view_keys import ViewRule
from medcap.errors import UserError


def test_the_keys_are_kept_as_they_are_written():
    given = {"window": [[-100, 2250], [40, 350], [40, 80]], "frames": "8 even", "fit": None}
    assert ViewRule().checked(given, "dataset.view") == given
    assert ViewRule().checked(None, "dataset.view") is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("pad", "dataset.view holds further keys (frames, axis, window, fit), not 'pad'"),
        ({"windw": 1}, "unknown key dataset.view.windw: did you mean dataset.view.window?"),
        ({"window": [40, 0]}, "dataset.view.window=[40, 0] must have a width above 0"),
        ({"fit": "stretch"}, "dataset.view.fit='stretch' must be one of crop, pad, pad_mean, squash"),
    ],
)
def test_a_wrong_key_is_one_line(given, message):
    with pytest.raises(UserError) as caught:
        ViewRule().checked(given, "dataset.view")
    assert str(caught.value) == message


def test_a_source_of_a_mixture_has_its_own_view():
    view = {"axis": "coronal"}
    (first, second) = check_sources(None, [{"source": "a.json", "view": view}, {"source": "b.json"}])
    assert (first.view, second.view) == (view, None)
    with pytest.raises(UserError, match=r"dataset.sources.0.view.axis='up' must be one of"):
        check_sources(None, [{"source": "a.json", "view": {"axis": "up"}}])
