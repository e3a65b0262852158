from dataclasses import replace

import pytest
import torch

from helpers.browser import BOXED, Pointing
from helpers.serving import asking, noise_png, running, tiny_service
from medcap.data.boxes.box import Box
from medcap.data.boxes.style import box_style
from medcap.data.outputs import NOTHING, Outputs
from medcap.generation.request import PreparedImage
from medcap.models.preprocess import Preprocess
from medcap.serving.reply_boxes import reply_boxes


def sent(*sizes, fit=None):
    return [PreparedImage(torch.zeros(3, 2, 2), str(size), size, fit) for size in sizes]


def test_boxes_in_words_are_on_the_last_picture():
    boxes = reply_boxes(box_style({}), sent((50, 50), (200, 100)), "[100, 250, 500, 750] or none", NOTHING)
    assert boxes == [{"box": [20.0, 25.0, 100.0, 75.0], "image": 1}]


def test_boxes_of_a_box_head_are_on_their_own_picture():
    outputs = Outputs(
        (Box((0.1, 0.25, 0.5, 0.75), "ring"), Box((0.1, 0.25, 0.5, 0.75), image=1), Box((0, 0, 1, 1), image=2))
    )
    assert reply_boxes(box_style({}), sent((50, 50), (200, 100)), "[0, 0, 9, 9]", outputs) == [
        {"box": [5.0, 12.5, 25.0, 37.5], "image": 0, "label": "ring"},
        {"box": [20.0, 25.0, 100.0, 75.0], "image": 1},
    ]
    assert reply_boxes(box_style({}), sent((50, 50)), "[0, 0, 9, 9]", Outputs(())) == []


def test_boxes_are_read_as_the_run_writes_them():
    style = box_style({"box_format": "coloninst", "box_frame": "shown"}, Preprocess(40).frame)
    assert reply_boxes(style, sent((200, 100), fit="pad"), "{<0><10><20><30>} [0, 0, 9, 9]", NOTHING) == [
        {"box": [0.0, 0.0, 100.0, 100.0], "image": 0}
    ]


def test_there_are_none_without_a_picture():
    assert reply_boxes(box_style({}), [], "[0, 0, 9, 9]", NOTHING) == []


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A run that points."""
    service = tiny_service(tmp_path_factory.mktemp("pointing"))
    run = service.runs["tiny"]
    service.runs = {"tiny": replace(run, live=Pointing(run))}
    with running(service) as client:
        yield client


def test_a_reply_holds_the_boxes_of_its_answer(client):
    found = [{"box": [20.0, 20.0, 100.0, 60.0], "image": 0, "label": "liver"}]
    body = asking("Where is the liver?", noise_png(1, 200, 100))
    message = client.chat(body).json["choices"][0]["message"]
    assert message == {"role": "assistant", "content": BOXED, "refusal": None, "boxes": found}
    reply = client.openai().chat.completions.create(**body).choices[0].message
    assert reply.boxes == found
    chunks = list(client.openai().chat.completions.create(**body, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == BOXED
    assert [getattr(chunk.choices[0].delta, "boxes", None) for chunk in chunks if chunk.choices[0].finish_reason] == [
        found
    ]
    assert "boxes" not in client.chat(asking("Where is the liver?")).json["choices"][0]["message"]
