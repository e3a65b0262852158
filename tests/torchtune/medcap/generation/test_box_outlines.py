"""Masks of an answer's boxes: those of transformers' SAM with the box as its prompt, on images that are not square."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from helpers.sam_folders import SIDE, write_sam, write_sam2
from helpers.tiny_generation import mixed_requests, write_images
from helpers.word_generation import generator_with_boxes
from medcap.data.boxes.box import Box
from medcap.data.boxes.frame import Frame
from medcap.data.boxes.style import BoxStyle
from medcap.data.outputs import NOTHING, Outputs
from medcap.data.regions.run_length import decode
from medcap.errors import UserError
from medcap.generation.decoding.box_outlines import BoxOutliner
from medcap.generation.decoding.seen_image import SeenImage
from medcap.generation.request import Sampling
from medcap.generation.run import plan_box_outlines
from medcap.models.mask_decoders.sam_files import open_sam_folder
from medcap.models.mask_decoders.sam_model import read_sam

SIZE = (40, 24)
BOXES = (Box((0.1, 0.25, 0.6, 0.75)), Box((0.5, 0.0, 1.0, 1.0), "lung"))


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """A SAM and a SAM 2: transformers' model, and what outlines boxes with it."""
    found = {}
    for name, write in (("sam", write_sam), ("sam2", write_sam2)):
        folder = tmp_path_factory.mktemp(name)
        theirs = write(folder)
        sam = read_sam(open_sam_folder(folder, "mask_from_boxes"), single=False)
        found[name] = folder, theirs, BoxOutliner(sam, BoxStyle())
    return found


def seen(outliner):
    pixels = np.random.default_rng(4).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    own = outliner.own_picture
    picture = own.transform()(Image.fromarray(pixels))
    return SeenImage(torch.zeros(1, 1), None, Frame(SIZE, "crop", 16), None, picture, own.frame(SIZE))


def masks(outputs):
    return [decode({"size": list(one.shape.size), "counts": one.shape.counts}, "mask") for one in outputs.masks]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sam", "sam2"])
@torch.no_grad()
def test_a_mask_is_that_of_transformers_for_the_box(sides, name):
    _, theirs, outliner = sides[name]
    image = seen(outliner)
    found = outliner.outline("any words", Outputs(boxes=BOXES), image, 1)
    # As SamProcessor does it: 40 x 24 pixels become 32 x 19 in the corner; SAM 2 is shown them as 32 x 32.
    width, height = (32, 19) if name == "sam" else (32, 32)
    boxes = torch.tensor(
        [[x1 * width, y1 * height, x2 * width, y2 * height] for x1, y1, x2, y2 in (b.edges for b in BOXES)]
    )
    pixels = outliner.own_picture.normalize(image.own_picture[None])
    small = theirs(pixel_values=pixels, input_boxes=boxes[None], multimask_output=False).pred_masks[0]  # [2, 1, h, w]
    square = functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    wanted = functional.interpolate(square[..., :height, :width], size=SIZE[::-1], mode="bilinear", align_corners=False)
    for mask, logits in zip(masks(found), wanted[:, 0], strict=True):
        assert mask.shape == (24, 40) and mask.any()
        # At the border to the padding, the last row and column look beyond the cut.
        np.testing.assert_array_equal(mask[:-2, :-2], (logits > 0).numpy()[:-2, :-2])
    assert [(one.label, one.image) for one in found.masks] == [("", 1), ("lung", 1)]


@pytest.mark.slow
def test_boxes_are_read_off_the_text_where_the_model_gives_none(sides):
    outliner = sides["sam"][2]
    image = seen(outliner)
    text = BoxStyle().write(BOXES[0], SIZE)
    found = outliner.outline(f"It is at {text}.", NOTHING, image, 0)
    assert len(found.masks) == 1
    assert found.masks == outliner.outline("", Outputs(boxes=BOXES[:1]), image, 0).masks
    assert outliner.outline("It is not there.", NOTHING, image, 0) is NOTHING
    kept = Outputs(boxes=BOXES, masks=(None,))
    assert outliner.outline("", kept, image, 0) is kept


def test_a_sam_whose_output_is_not_finite_is_a_failure(sides, tmp_path, monkeypatch):
    sam = sides["sam"][2]._sam
    generator = generator_with_boxes(tmp_path, sam=sam)
    requests = mixed_requests(write_images(tmp_path, 2))
    wanted = generator.generate(requests, Sampling(max_new_tokens=8))
    plain = sam.masks
    monkeypatch.setattr(
        sam, "masks", lambda *given: (lambda found: found._replace(logits=found.logits / 0 * 0))(plain(*given))
    )
    answers = generator.generate(requests, Sampling(max_new_tokens=8))
    for answer, before in zip(answers, wanted, strict=True):
        if before.outputs.masks:
            assert (answer.finish, answer.error) == ("error", "the SAM's output is not finite")
        else:
            assert (answer.text, answer.outputs) == (before.text, before.outputs)
    assert {answer.finish for answer in answers} == {"error", "length"}


def test_a_run_with_masks_of_its_own_is_refused(sides):
    folder = sides["sam"][0]
    with pytest.raises(UserError, match=r"mask_from_boxes=.*has a mask_decoder.*without=\[mask_decoder\]"):
        plan_box_outlines(folder, [SimpleNamespace(components=["vision", "mask_decoder"])])
    with pytest.raises(UserError, match="mask_from_boxes=nowhere: there is no such folder"):
        plan_box_outlines("nowhere", [SimpleNamespace(components=["vision"])])
    assert plan_box_outlines(folder, [SimpleNamespace(components=[])]).description.model_type == "sam"
