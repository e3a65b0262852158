import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from helpers.mask_rows import mask_of, region_of
from helpers.recorded_engine import fake_engine
from medcap.data.images.reference import ImageRef
from medcap.data.outputs import Outputs
from medcap.data.regions.region import RunLength
from medcap.data.regions.run_length import decode, encode
from medcap.errors import UserError
from medcap.evaluation.control_runs import ALL_CONTROLS, chosen_controls
from medcap.evaluation.mask_prior import MaskPrior, _Sum
from medcap.evaluation.prompting import plan_protocols
from medcap.evaluation.runner import run_task
from medcap.evaluation.scored import RunOptions
from medcap.evaluation.tasks.base import Benchmark
from medcap.evaluation.tasks.questions.vqa import VqaTask
from medcap.evaluation.training_answers import TrainingAnswers
from medcap.generation.prompt import user_message
from medcap.generation.request import Generation
from medcap.scoring.answers import read_answers
from medcap.scoring.protocols.registry import make_protocol
from medcap.scoring.question import Question

RING, DISC = mask_of("##..", "##.."), mask_of("...#", "...#")
MASKS = {"ring": RING, "disc": DISC}


def question(name, image, phrase, mask=None):
    return Question(
        name,
        [user_message([ImageRef(image)], f"Outline the {phrase}.")],
        ("<SEG>",),
        meta={"phrase": phrase},
        image_size=(4, 2),
        masks=(None if mask is None else region_of(mask, phrase),),
        mask_labels=(phrase,),
    )


def drawn(region):
    assert isinstance(region.shape, RunLength)
    return decode({"size": list(region.shape.size), "counts": region.shape.counts}).tolist()


@pytest.fixture
def training(tmp_path):
    """Training rows in three forms: a mask file, a run-length and a box, MedPLIB's text."""

    def row(words, answer, **more):
        turns = [{"from": "human", "value": f"<image>\n{words}"}, {"from": "gpt", "value": answer}]
        return {"image": "a.png", "conversations": turns, **more}

    Image.new("L", (4, 2)).save(tmp_path / "a.png")
    Image.fromarray(RING.astype(np.uint8)).save(tmp_path / "ring.png")
    Image.fromarray(np.kron(DISC, np.ones((4, 4))).astype(np.uint8)).save(tmp_path / "disc.png")
    left = encode(mask_of("#...", "#..."))
    rows = [
        row("Outline the ring.", "<SEG>", phrase="ring", masks=["ring.png"]),
        row("Outline the ring.", "<SEG>", phrase="ring", masks=[{"mask": left}]),
        row("Outline the ring.", "<SEG> and <SEG>", masks=[{"box": [0, 0, 1, 1], "label": "ring"}, None]),
        row("Outline the disc.", "It is <SEG><mask>disc.png</mask>."),
        row("Describe it.", "A lung."),
        row("Outline it.", "<SEG>", masks=["gone.png"]),
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TrainingAnswers(((str(path), "auto"),))


def test_the_share_of_the_prior_is_the_one_that_fits_the_training_masks_best():
    apart = _Sum()
    for column in range(5):
        apart.add(np.arange(256)[None].repeat(256, 0) // 20 == column)
    # No pixel is in half of the masks; all of them together fit best.
    assert apart.best().sum() == 256 * 100 and apart.best()[:, :100].all()
    mostly = _Sum()
    for first, last in ((0, 100), (0, 100), (0, 110), (200, 210)):
        mostly.add((np.arange(256)[None] >= first).repeat(256, 0) & (np.arange(256)[None] < last))
    # Dice of columns 0 to 99 is 600 / (400 + 320), of 0 to 109 and 200 to 209 with them 640 / (480 + 320).
    assert mostly.best()[0].nonzero()[0].tolist() == list(range(100))
    assert not _Sum().best().any()


def test_the_prior_is_the_mean_mask_of_a_phrase(training):
    rows = [question("0", "x.png", "ring", RING), question("1", "x.png", "disc", DISC), question("2", "x.png", "star")]
    prior = MaskPrior(training, rows)
    # Of the ring's three masks two hold the pixel below the corner and one the second column.
    assert drawn(prior.masks(rows[0])[0]) == mask_of("#...", "#...").tolist()
    assert drawn(prior.masks(rows[1])[0]) == DISC.tolist()
    assert drawn(prior.masks(rows[2])[0]) == mask_of("#...", "#...").tolist()  # of all four answers
    large = replace(rows[1], image_size=(8, 4))
    assert drawn(prior.masks(large)[0]) == np.kron(DISC, np.ones((2, 2), bool)).tolist()
    assert prior.notices[0].startswith("prior_mask: 1 training rows cannot be read; the first: image gone.png")


def test_training_answers_without_masks(tmp_path, training):
    path = tmp_path / "none.jsonl"
    path.write_text((tmp_path / "train.jsonl").read_text().splitlines()[4] + "\n")
    with pytest.raises(UserError, match=r"prior_source: no answer of .*none.jsonl holds a mask"):
        MaskPrior(TrainingAnswers(((str(path), "auto"),)), [])


class Outliner:
    """A model that outlines the object that is asked for, whatever the image."""

    def engine(self):
        return fake_engine(self.generate)

    def generate(self, requests, on_result):
        for index, request in enumerate(requests):
            words = request.messages[-1].content[-1]["content"]
            mask = next((mask for name, mask in MASKS.items() if name in words), None)
            masks = () if mask is None else (region_of(mask),)
            on_result(index, Generation("<SEG>" if masks else "None.", [1], "stop", outputs=Outputs(masks=masks)))


@pytest.mark.slow
def test_controls_of_masks_beside_the_others(training, tmp_path):
    for name in "ab":
        Image.new("L", (4, 2)).save(tmp_path / f"{name}.png")
    a, b = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    rows = [
        question("a ring", a, "ring", RING),
        question("a disc", a, "disc", DISC),
        question("b ring", b, "ring", RING),
        question("b cross", b, "cross"),
    ]
    plans = plan_protocols(["masks", "medplib_seg", "exact"])
    wanted = chosen_controls(True, rows, plans)
    assert wanted == [name for name in ALL_CONTROLS if name not in ("prior_box", "exchanged_region")]
    options = RunOptions(tmp_path / "out", {"seed": 1}, controls=wanted, prior=training)
    result = run_task(VqaTask(), Benchmark(rows, "rows", [], "0" * 64), plans, Outliner().engine(), options)
    assert (result["scores"]["mean_dice"], result["scores"]["false_positive_rate"]) == (1.0, 0.0)
    assert list(result["controls"]) == ["shuffled_image", "no_image", "prior_mask", "exchanged_question"]
    exchanged = result["controls"]["exchanged_question"]
    assert (exchanged["scores"]["mean_dice"], exchanged["own"]["scores"]["mean_dice"]) == (0.0, 1.0)
    assert any("2 of 4 rows, the others ask for no mask or are alone on their image" in n for n in result["notices"])
    prior = result["controls"]["prior_mask"]
    assert prior["scores"]["mean_dice"] == pytest.approx((2 / 3 + 1 + 2 / 3 + 0) / 4)
    assert prior["scores"]["false_positive_rate"] == 1.0
    assert list(result["protocols"]["exact"]["controls"]) == ["shuffled_image", "no_image"]
    # The file holds run-lengths, and gives the same scores again.
    path = tmp_path / "out/vqa/predictions.jsonl"
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert entries[0]["masks"] == [{"mask": encode(RING)}]
    assert entries[0]["reference_masks"] == [{"mask": encode(RING), "label": "ring"}]
    assert (entries[3]["masks"], entries[3]["reference_masks"]) == ([], [{"mask": None, "label": "cross"}])
    again = make_protocol("masks").score(read_answers(path))
    assert again.scores["mean_dice"] == 1.0
    assert again.counts["per_class.cross.n"] == 1
    html = (tmp_path / "out/vqa/report.html").read_text(encoding="utf-8")
    assert "mean mask of training" in html
    # The page shows the masks of the three objects that are there, names the absent one, and charts all of them.
    assert html.count('<g class="mask expected" transform') == html.count('<g class="mask given" transform') == 3
    assert "<strong>cross:</strong> absent, and the answer has none" in html
    assert "Objects by Dice threshold" in html and "the lowest Dice first." in html
