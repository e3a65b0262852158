from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco

from helpers.browser import Pointing
from helpers.mask_rows import mask_of, region_of
from helpers.serving import asking, noise_png, running, tiny_service
from medcap.data.outputs import NOTHING, Outputs
from medcap.serving.reply_masks import reply_masks

MASK = mask_of("..##", "..#.")
RING = region_of(MASK)
OTHER = replace(region_of(~MASK, "disc"), image=1)


def test_masks_have_their_picture_and_the_name_that_the_words_give_them():
    counts = [region.shape.counts for region in (RING, OTHER)]
    assert reply_masks(
        2, "The ring is <SEG>, it is <SEG>, the cyst is not visible", Outputs(None, (RING, OTHER, None))
    ) == [
        {"mask": {"size": [2, 4], "counts": counts[0]}, "image": 0, "label": "ring"},
        {"mask": {"size": [2, 4], "counts": counts[1]}, "image": 1, "label": "disc"},
        {"mask": None, "label": "cyst"},
    ]
    assert reply_masks(1, "", Outputs(None, (RING, OTHER, None))) == [
        {"mask": {"size": [2, 4], "counts": counts[0]}, "image": 0},
        {"mask": None},
    ]
    assert reply_masks(1, "<SEG>", NOTHING) == []


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A run that outlines."""
    service = tiny_service(tmp_path_factory.mktemp("outlining"))
    run = service.runs["tiny"]
    masks = Outputs(None, (RING, None))
    service.runs = {"tiny": replace(run, live=Pointing(run, "ring <SEG>, disc not visible", masks))}
    with running(service) as client:
        yield client


def test_a_reply_holds_the_masks_of_its_answer(client):
    body = asking("Outline the ring and the disc.", noise_png(1, 4, 2))
    message = client.chat(body).json["choices"][0]["message"]
    ring, disc = message["masks"]
    assert set(message) == {"role", "content", "refusal", "masks"}
    assert (ring["image"], ring["label"], disc) == (0, "ring", {"mask": None, "label": "disc"})
    assert (coco.decode(ring["mask"]).astype(bool) == MASK).all()
    chunks = list(client.openai().chat.completions.create(**body, stream=True))
    assert [getattr(chunk.choices[0].delta, "masks", None) for chunk in chunks if chunk.choices[0].finish_reason] == [
        [ring, disc]
    ]
    assert np.count_nonzero(MASK) == 3
