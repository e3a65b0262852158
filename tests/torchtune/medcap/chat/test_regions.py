"""Regions in the chat: ``/region``. Images of the fixture are 12 x 10 pixels, of which the tower sees four quarters."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from helpers.region_generation import generator_with_regions
from helpers.tiny_generation import tiny_generator, write_images
from medcap.chat.terminal import Chat
from medcap.data.regions.region import BoxShape, PointShape, PolygonShape, Region, RunLength
from medcap.data.row_layouts import read_record
from medcap.data.row_regions import place_regions as place_regions_of_row
from medcap.data.row_regions import regions_of
from medcap.errors import UserError
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling

LEFT = Region(BoxShape((0.0, 0.0, 6.0, 10.0)))
NO_ENCODER = "this run reads no regions, as it has no region_encoder: /box writes a box into the words"


@pytest.fixture
def generator(tmp_path, monkeypatch):
    write_images(tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    return generator_with_regions(tmp_path)


@pytest.fixture
def asked(generator, monkeypatch):
    """The requests of a chat, which are answered as ever."""
    requests, generate = [], generator.generate

    def remember(given, *arguments, **options):
        requests.extend(given)
        return generate(given, *arguments, **options)

    monkeypatch.setattr(generator, "generate", remember)
    return requests


def regions_in(request):
    return regions_of(request.messages)


def test_a_question_about_a_region_is_that_of_training_and_answered_so(talk, generator, asked, tmp_path):
    out, err = talk("/image 0.png", "/region box 0 0 6 10", "What is {region}?", "/save it.json")
    assert err[1:3] == [
        "{region 1} is box 0 0 6 10, 60 pixels, 50.0 % of the image",
        "asked: What is <region></region>?",
    ]
    plain = question_request("0.png", "What is <region></region>?", regions=[LEFT])
    prompt = generator.tokenizer.prompt(plain.messages)
    assert generator.tokenizer.prompt(asked[0].messages).tokens == prompt.tokens and regions_in(asked[0]) == [LEFT]
    wanted = generator.generate([plain], Sampling(max_new_tokens=6))[0]
    assert out == [wanted.text]
    other = question_request("0.png", "What is <region></region>?", regions=[Region(BoxShape((6, 0, 12, 10)))])
    assert generator.generate([other], Sampling(max_new_tokens=6))[0].text != wanted.text
    # What was saved can be trained on.
    (row,) = json.loads((tmp_path / "it.json").read_text())
    assert row["regions"] == [{"box": [0, 0, 6, 10]}]
    record = read_record(row, tmp_path / "it.json", 0, lambda path, _: Path(path))
    trained = generator.tokenizer.tokenize(place_regions_of_row(row, record, Path).messages)
    assert trained.tokens[: len(prompt.tokens)] == prompt.tokens and trained.regions == [LEFT]


def test_regions_of_every_shape_are_named_in_any_order_and_the_others_follow(talk, asked, tmp_path):
    mask = np.zeros((10, 12), np.uint8)
    mask[2:4, 3:7] = 3
    Image.fromarray(mask).save(tmp_path / "a mask.png")
    _, err = talk(
        *("/image 0.png", "/region point 5 5 2", "/region polygon 0,0 8,0 0,8", "/region mask a mask.png value=3"),
        *("/region", "Is {region 3} like {region 1} or {region 3}?", "And now?"),
    )
    assert "asked: Is <region></region> like <region></region> or <region></region>? <region></region>" in err
    shapes = [type(region.shape) for region in regions_in(asked[0])]
    assert shapes == [RunLength, PointShape, RunLength, PolygonShape]
    assert err.count("{region 3} is mask a mask.png, 8 pixels, 6.7 % of the image") == 2
    assert asked[1].messages[-1].content[-1]["content"] == "And now?"


def test_regions_can_be_dropped(talk, asked):
    _, err = talk("/image 0.png", "/region box 0 0 6 10", "/region none", "What is it?")
    assert err[2] == "no region waits for your next words" and regions_in(asked[0]) == []


def test_a_region_lies_on_its_picture_in_later_turns_and_alone(talk, asked):
    talk("/image 0.png", "/region box 0 0 6 10", "", "/image 1.png", "/region box 6 0 12 10", "Is {region} darker?")
    assert [region.image for region in regions_in(asked[1])] == [0, 1]
    chat = Chat(Sampling(max_new_tokens=2), alone=True)
    lines = "/image 0.png", "What?", "/image 1.png", "/image 0.png", "/region box 6 0 12 10", "Is {region} darker?"
    talk(*lines, chat=chat)
    assert [region.image for region in regions_in(asked[-1])] == [1]
    _, err = talk("/region box 6 0 12 10", "/image 1.png", "What?", chat=chat)
    assert err[-1] == "a region lies on an image that was shown before the last ones, which a turn alone is about"


def test_a_slice_of_a_volume_can_be_named(talk, asked, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).integers(0, 99, (12, 10, 6)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "ct.nii")
    _, err = talk("/image ct.nii frames=1,3,4", "/region box 0 0 6 10 picture=2", "/region box 0 0 1 1 picture=4", "")
    assert err[1] == "{region 1} is box 0 0 6 10 on picture 2 of 3, 60 pixels, 50.0 % of the image"
    assert err[2] == "picture=4: the image that was shown last has pictures from 1 to 3"
    assert [region.image for region in regions_in(asked[0])] == [1]


def test_a_question_that_failed_is_asked_again_with_its_region(talk, say):
    requests = say(UserError("out of memory"), "Yes", "No")
    talk("/image 0.png", "/region box 0 0 6 10", "What is it?", "/retry", "Is it left?")
    assert requests[0] == requests[1] and len(requests[0][-1][1]) == 4
    assert requests[2][-1][1] == ["Is it left?"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/region box 1 2 3", "write /region box X1 Y1 X2 Y2, /region point X Y RADIUS"),
        ("/region ring 1 2 3 4", "write /region box X1 Y1 X2 Y2, /region point X Y RADIUS"),
        ("/region box 9 2 3 7", "which has no area: x1 < x2 and y1 < y2 are needed"),
        ("/region point 3 3 0", "a point is 'point' [x, y] and 'radius', above 0, in pixels"),
        (
            "/region box 20 20 30 30",
            "the box of a region [20.0, 20.0, 30.0, 30.0] holds no pixel of its image of 12 x 10",
        ),
        ("/region box nan 0 1 1", "a box is four numbers"),
        ("/region mask none.png", "none.png: there is no such file"),
        (
            "/region mask small.png",
            "small.png has 3 x 3 pixels and its image 12 x 10: a mask has the size",
        ),
        ("/region box 0 0 6 10 value=3", "value=3: it is a whole number, and goes with a mask"),
        ("/region box 0 0 6 10 picture=2", "picture=2: the image that was shown last has pictures from 1 to 1"),
        ("Is it in {region}?", "{region} names a region that does not exist: 0 were given"),
        ("Is it in <region></region>?", "<region></region> names a region that does not exist: 0 were given"),
        ("Is it in <region>a.png</region>?", "words cannot name the file of a region"),
    ],
)
def test_a_mistake_is_one_line(talk, line, words, tmp_path):
    Image.new("L", (3, 3), 1).save(tmp_path / "small.png")
    _, err = talk("/image 0.png", line)
    assert words in err[1] and len(err) == 2


def test_a_region_needs_an_image_and_a_run_that_reads_it(talk, tmp_path, monkeypatch, capsys):
    _, err = talk("/region box 1 2 3 4")
    assert err == ["show an image first, with /image FILE: a region lies on the image that was shown last"]
    lines = "/image 0.png", "/region box 1 2 3 4", "What is <region></region>?"
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    Chat(Sampling(max_new_tokens=2)).talk(tiny_generator(tmp_path))
    out, err = capsys.readouterr()
    assert err.splitlines()[1] == NO_ENCODER and len(out.splitlines()) == 1


def test_waiting_regions_are_shown_where_words_are_typed(generator, monkeypatch):
    typed = iter(["/image 0.png", "/region box 0 0 6 10", "What?", "/quit"])
    shown = []
    monkeypatch.setattr("builtins.input", lambda prompt: (shown.append(prompt), next(typed))[1])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    Chat(Sampling(max_new_tokens=2)).talk(generator)
    assert shown == ["> ", "> ", "(1 region) > ", "> "]
