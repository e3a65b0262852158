"""A mask decoder whose own output is not finite: a failure with its name, which is counted; all else stays."""

import json

import torch

from helpers.tiny_generation import write_images
from helpers.word_generation import generator_with_masks, poison
from medcap.data.images.reader import ImageReader
from medcap.evaluation.answering import Engine
from medcap.evaluation.prompting import plan_protocols
from medcap.evaluation.runner import run_task
from medcap.evaluation.scored import RunOptions
from medcap.evaluation.tasks.regions.pixel_grounding import PixelGroundingTask
from medcap.generation.request import Sampling

QUESTIONS = "Is there left lung?", "Is there a small red circle?", "Is there the chest?"


def run(folder, generator, output):
    task = PixelGroundingTask()
    benchmark = task.load(folder)
    options = RunOptions(folder / output, {"checkpoint": output})
    reader = ImageReader(benchmark.image_roots)
    run_task(task, benchmark, plan_protocols(["masks"]), Engine(generator, Sampling(8)), options, reader)
    (folder,) = (folder / output).glob("*/")
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    entries = [
        {key: value for key, value in json.loads(line).items() if key not in ("fingerprint", "settings")}
        for line in lines
    ]
    entries.sort(key=lambda entry: entry["question_id"])  # an answer that fails ends earlier
    return entries, json.loads((folder / "metrics.json").read_text())


def test_it_is_a_named_failure_in_the_denominator_and_nothing_else_is_lost(tmp_path):
    names = write_images(tmp_path, 3)
    rows = [{"image": name, "question": words, "masks": [[2, 2, 9, 8]]} for name in names for words in QUESTIONS]
    (tmp_path / "pixel_grounding.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    generator = generator_with_masks(tmp_path)
    before, plain_metrics = run(tmp_path, generator, "before")
    assert not any(entry["error"] for entry in before)
    picture = generator.reader.open(generator.reader.resolve("1.png"))
    with torch.no_grad():
        _, patches = generator.model.eval().encode_with_patches(generator.preprocess.transform()(picture)[None])
    poison(generator.model.components["mask_decoder"], patches[0])
    after, metrics = run(tmp_path, generator, "after")
    lost = [place for place, entry in enumerate(before) if entry["image"].endswith("1.png") and entry.get("masks")]
    assert 0 < len(lost) < len(rows)
    for place, (entry, plain) in enumerate(zip(after, before, strict=True)):
        if place in lost:
            assert (entry["error"], entry["prediction"]) == ("the mask decoder's output is not finite", "")
            assert "masks" not in entry
        else:
            assert entry == plain
    assert (metrics["n"], metrics["failures"]) == (9, plain_metrics["failures"] + len(lost))
