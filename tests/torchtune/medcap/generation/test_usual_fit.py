"""A run answers about images as its training data showed them, without being told."""

import pytest
import torch
from omegaconf import OmegaConf

from helpers.run_folders import picture, write_run
from medcap.checkpoints.run import fit_of_run
from medcap.generation.run import open_run
from medcap.models.preprocess import Preprocess


@pytest.mark.parametrize(
    ("dataset", "fit"),
    [
        ({}, None),
        ({"view": None}, None),
        ({"view": {"window": [40, 400]}}, None),
        ({"view": {"fit": "pad"}}, "pad"),
        ({"view": {"fit": "pad"}, "sources": [{"view": {"fit": "squash"}}]}, "pad"),
        ({"sources": [{"view": {"fit": "squash"}}, {"view": {"fit": "squash"}}]}, "squash"),
        ({"sources": [{"view": {"fit": "squash"}}, {"source": "a.json"}]}, None),
    ],
)
def test_the_fit_of_a_run_is_that_of_its_data(dataset, fit):
    assert fit_of_run(dataset) == fit


def test_the_usual_fit_counts_where_an_image_does_not_say_it_and_is_not_saved():
    plain, padded = Preprocess(8), Preprocess(8, usual_fit="pad")
    image = picture(20, 10)
    assert torch.equal(padded.transform()(image), plain.transform()(image, "pad"))
    assert torch.equal(padded.transform()(image, "crop"), plain.transform()(image))
    assert padded.frame((20, 10)) == plain.frame((20, 10), "pad") != plain.frame((20, 10))
    assert padded.to_dict() == plain.to_dict()


@pytest.mark.slow
def test_a_run_that_was_trained_on_padded_images_is_asked_about_padded_ones(tmp_path):
    run = write_run(tmp_path, "tiny")
    before = open_run(run).preprocess
    config = OmegaConf.load(run / "config.yaml")
    config.dataset.view = {"fit": "pad"}
    OmegaConf.save(config, run / "config.yaml")
    generator, image = open_run(run), picture(20, 10)
    assert before.usual_fit is None
    wanted = before.transform()(image, "pad")
    assert torch.equal(generator.prepare(image, "a").pixels, wanted)
    assert not torch.equal(generator.prepare(image, "a", "crop").pixels, wanted)
