import pytest

from medcap.data.images.view_keys import read_view, split_words, view_keys
from medcap.data.images.views import DEFAULT_VIEW, View
from medcap.errors import UserError

THREE = ((-100.0, 2250.0), (40.0, 350.0), (40.0, 80.0))
LISTS = [[-100, 2250], [40, 350], [40, 80]]


@pytest.mark.parametrize(
    ("given", "view"),
    [
        ({}, DEFAULT_VIEW),
        ({"image": "a.png", "other": 3}, DEFAULT_VIEW),
        ({"frames": None, "window": None, "axis": None, "fit": None}, DEFAULT_VIEW),
        ({"window": [40, 400]}, View(window=(40.0, 400.0))),
        ({"window": LISTS}, View(window=THREE)),
        ({"window": 1}, View(window=1)),
        ({"frames": "8 even"}, View(frames="8 even")),
        ({"frames": "8even"}, View(frames="8 even")),
        ({"frames": [0, 5]}, View(frames=(0, 5))),
        ({"frames": 3, "axis": "coronal", "fit": "pad"}, View(frames=3, axis="coronal", fit="pad")),
        ({"frames": "12"}, View(frames=12)),
    ],
)
def test_a_view_of_the_keys_of_a_row(given, view):
    assert read_view(given) == view


def test_keys_that_are_not_given_are_the_defaults_own():
    default = View(window=(40.0, 400.0), frames="8 even", axis="coronal")
    assert read_view({"frames": 2}, default) == View(window=(40.0, 400.0), frames=2, axis="coronal")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"window": [40, 0]}, r"window=\[40, 0\] must have a width above 0"),
        ({"window": [40, -1]}, "a width above 0"),
        ({"window": [40]}, "must be a centre and a width"),
        ({"window": [[40, 400], [40, 80]]}, "must be a centre and a width"),
        ({"window": [[40, 400], [40, 80], [0, 0]]}, "a width above 0"),
        ({"window": [40, float("nan")]}, "must be a centre and a width"),
        ({"window": [10**400, 5]}, "must be a centre and a width"),
        ({"window": True}, "must be a centre and a width"),
        ({"window": "lung"}, "must be a centre and a width"),
        ({"frames": "some"}, "frames='some' must be middle, all"),
        ({"frames": "0 even"}, "must be middle, all"),
        ({"frames": []}, "must be middle, all"),
        ({"frames": [1, -1]}, "must be middle, all"),
        ({"frames": [True]}, "must be middle, all"),
        ({"frames": 1.5}, "must be middle, all"),
        ({"axis": "up"}, "axis='up' must be one of sagittal, coronal, axial"),
        ({"axis": ["axial"]}, "must be one of"),
        ({"fit": "stretch"}, "fit='stretch' must be one of crop, pad, pad_mean, squash"),
    ],
)
def test_an_impossible_value_is_one_line_that_names_the_key(given, words):
    with pytest.raises(UserError, match=words) as caught:
        read_view(given, prefix="dataset.view.")
    assert str(caught.value).startswith(f"dataset.view.{next(iter(given))}=")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "view",
    [
        DEFAULT_VIEW,
        View(window=THREE, frames=(0, 5, 9), axis="sagittal", fit="pad_mean"),
        View(window=(-0.5, 1e-7), frames="8 even"),
        View(window=2, frames="all", fit="squash"),
    ],
)
def test_what_a_view_says_of_itself_is_read_back(view):
    assert read_view(view_keys(view)) == view
    assert split_words(f"my scan.nii.gz {view}") == ("my scan.nii.gz", view)


def test_words_that_a_person_types():
    name, view = split_words("ct a.nii.gz frames=8even window=-100,2250/40,350/40,80 axis=coronal fit=pad")
    assert (name, view) == ("ct a.nii.gz", View(THREE, "8 even", "coronal", "pad"))
    assert split_words("window=40,400") == ("window=40,400", DEFAULT_VIEW)  # a name there must be
    assert split_words("a=b window=40,400") == ("a=b", View(window=(40.0, 400.0)))


@pytest.mark.parametrize("words", ["window=40,0", "window=40", "frames=x", "axis=up", "frames=1 frames=2"])
def test_words_that_mean_nothing(words):
    if words == "window=40":
        assert split_words(f"a.dcm {words}")[1] == View(window=40)  # a window of the file; opening it says if not
        return
    with pytest.raises(UserError):
        split_words(f"a.nii {words}")
