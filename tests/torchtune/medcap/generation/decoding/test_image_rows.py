from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.dicom_files import write_dicom
from helpers.tiny_generation import tiny_generator, write_images
from medcap.data.images.reference import ImageRef
from medcap.data.images.views import View
from medcap.data.regions.mask_drawing import MaskDrawing
from medcap.data.regions.region import MaskFile, Region
from medcap.generation.decoding.image_rows import ImageRows
from medcap.generation.generator import Generator


@pytest.fixture
def images(tmp_path):
    return [ImageRef(name) for name in write_images(tmp_path, 5)]


@pytest.fixture
def generator(tmp_path):
    generator = tiny_generator(tmp_path)
    generator.model.eval()
    return generator


def make_rows(generator: Generator, **options: int) -> ImageRows:
    return ImageRows(generator.model, generator.preprocess, generator.reader, batch_size=2, **options)


def test_rows_are_in_the_order_asked_for_and_equal_direct_encoding(tmp_path, generator, images):
    with torch.no_grad(), make_rows(generator) as rows:
        rows.encode([images[3], images[1], images[3], images[0]])
        stacked = rows.rows_of([images[1], images[3], images[3]])
        transform = generator.preprocess.transform()
        direct = [
            generator.model.encode_images(transform(Image.open(tmp_path / images[n].path))[None]) for n in (1, 3, 3)
        ]
        torch.testing.assert_close(stacked, torch.cat(direct))


def test_no_image_is_encoded_twice(generator, images):
    with torch.no_grad(), make_rows(generator) as rows:
        rows.prefetch(images)
        rows.encode(images[:3])
        rows.encode(images[1:])
        assert generator.model.tower.num_seen == 5


def test_each_view_of_an_image_is_encoded_once(tmp_path, generator):
    frames = np.stack([np.full((4, 4), 60 * number, dtype=np.uint8) for number in range(3)])
    write_dicom(tmp_path / "scan.dcm", frames)
    middle, last = ImageRef("scan.dcm"), ImageRef("scan.dcm", View(frames=2))
    transform = generator.preprocess.transform()
    with torch.no_grad(), make_rows(generator) as rows:
        rows.encode([middle, last, middle])
        rows.encode([last, ImageRef("scan.dcm", View(frames=2))])
        assert generator.model.tower.num_seen == 2
        pixels = torch.stack([transform(Image.new("L", (4, 4), level)) for level in (60, 120)])
        torch.testing.assert_close(rows.rows_of([middle, last]), generator.model.encode_images(pixels))


def test_least_recently_used_is_forgotten_but_never_the_batchs_own(generator, images):
    one_image = 3 * 32 * 4
    with torch.no_grad(), make_rows(generator, max_bytes=2 * one_image) as rows:
        rows.encode(images[:2])
        rows.encode([images[0]])
        rows.encode([images[2]])
        rows.encode([images[0]])
        assert generator.model.tower.num_seen == 3
        rows.encode([images[1]])
        assert generator.model.tower.num_seen == 4
        rows.encode(images)
        assert rows.rows_of(images).shape == (15, 32)


def test_unreadable_picture_in_memory_is_a_failure(tmp_path, generator, images):
    whole = (tmp_path / images[0].path).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:150])
    with torch.no_grad(), make_rows(generator) as rows, Image.open(tmp_path / "cut.png") as cut:
        outside = ImageRef("outside/../../etc/passwd")
        rows.encode([cut, images[1], outside])
        assert "cannot be read" in rows.failure(cut)
        assert "does not exist" in rows.failure(outside)
        assert rows.failure(images[1]) == ""
        rows.encode([cut])
        assert "cannot be read" in rows.failure(cut)


def test_an_image_with_a_mask_drawn_on_it_is_another_image(tmp_path, generator):
    Image.new("RGB", (4, 4), (60, 60, 60)).save(tmp_path / "grey.png")
    Image.new("L", (4, 4), 1).save(tmp_path / "mask.png")
    plain = ImageRef("grey.png")
    drawn, missing = (replace(plain, drawing=MaskDrawing(Region(MaskFile(name)))) for name in ("mask.png", "none.png"))
    transform = generator.preprocess.transform()
    with torch.no_grad(), make_rows(generator) as rows:
        rows.encode([plain, drawn, missing])
        # .45 * 60 + .55 * (118, 158, 224)
        pixels = torch.stack([transform(Image.new("RGB", (4, 4), colour)) for colour in ((60,) * 3, (91, 113, 150))])
        torch.testing.assert_close(rows.rows_of([plain, drawn]), generator.model.encode_images(pixels))
        assert "none.png does not exist" in rows.failure(missing)
