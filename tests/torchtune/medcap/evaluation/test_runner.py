import csv
import json
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.recorded_engine import fake_engine
from medcap.data.images.reader import ImageReader
from medcap.errors import UserError
from medcap.evaluation.prompting import plan_protocols
from medcap.evaluation.runner import run_task
from medcap.evaluation.scored import RunOptions
from medcap.evaluation.tasks.captions.caption import CaptionTask
from medcap.evaluation.tasks.questions.vqa import VqaTask
from medcap.generation.request import CandidateScores, Generation
from medcap.scoring.metrics.caption import CaptionScores
from medcap.scoring.protocols import coco

SETTINGS = {"checkpoint": "abc", "temperature": 0.0}
OPTIONS = [f"image{index}" for index in range(4)]


class Answers:
    """A model that answers with the image's name, and remembers what it was asked."""

    def __init__(self, broken=(), stop_after=None):
        self.asked = []
        self.scored = []
        self.broken = broken
        self.stop_after = stop_after

    def engine(self):
        return fake_engine(self.generate, self.score)

    def generate(self, requests, on_result):
        for index, request in enumerate(requests):
            if request.id in self.broken:
                raise UserError(f"request {request.id} has a damaged image")
            if self.stop_after is not None and len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(request.id)
            on_result(index, Generation(image_name(request), [1, 2], "stop"))

    def score(self, requests, candidates, end_of_turn, on_result):
        for index, (request, texts) in enumerate(zip(requests, candidates, strict=True)):
            self.scored.append(request.id)
            sums = [0.0 if text == image_name(request) else -9.0 for text in texts]
            on_result(index, CandidateScores(sums, [1] * len(texts)))


def image_name(request):
    images = [part["content"] for part in request.messages[-1].content if part["type"] == "image"]
    return images[0].path.rpartition("/")[2].removesuffix(".png") if images else "none"


@pytest.fixture
def questions(tmp_path):
    lines = []
    for index in range(8):
        name = f"image{index}"
        Image.new("L", (8, 8), index * 30).save(tmp_path / f"{name}.png")
        row = {"id": f"q{index}", "image": f"{name}.png", "question": "Which?", "reference": name}
        if index < 4:
            row |= {"options": OPTIONS, "modality": "CT", "answer_type": "CLOSED"}
        lines.append(json.dumps(row))
    path = tmp_path / "vqa.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def run(questions, output_dir, answers, protocols=("exact",), settings=SETTINGS, **options):
    task = VqaTask()
    benchmark = task.load(questions)
    options = RunOptions(Path(output_dir), settings, **options)
    plans = plan_protocols(list(protocols))
    return run_task(task, benchmark, plans, answers.engine(), options, ImageReader(benchmark.image_roots))


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_run_writes_predictions_scores_controls_a_page_and_a_row(questions, tmp_path):
    result = run(questions, tmp_path / "out", Answers(), controls=("shuffled_image", "no_image"))
    folder = tmp_path / "out" / "vqa"
    assert sorted(path.name for path in folder.iterdir()) == [
        "metrics.json",
        "predictions.jsonl",
        "predictions.settings.json",
        "predictions_no_image.jsonl",
        "predictions_no_image.settings.json",
        "predictions_shuffled_image.jsonl",
        "predictions_shuffled_image.settings.json",
        "report.html",
    ]
    assert json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail) == result
    assert (result["scores"], result["n"], result["failures"]) == ({"accuracy": 1.0, "token_f1": 1.0}, 8, 0)
    assert result["controls"]["shuffled_image"]["scores"]["accuracy"] == 0.0
    assert result["controls"]["no_image"]["fall"]["low"] == pytest.approx(0.6756, abs=5e-5)
    assert (result["protocol"], result["asked"], len(result["prompt_sha256"])) == ("exact", "direct", 64)
    assert (result["dataset"]["rows"], len(result["dataset"]["sha256"])) == (8, 64)
    # Wilson's interval of 8 of 8.
    low = pytest.approx(0.6756, abs=5e-5)
    assert result["intervals"]["accuracy"] == {"low": low, "high": 1.0, "level": 0.95, "draws": 0}
    first = lines(folder / "predictions.jsonl")[0]
    assert (first["question_id"], first["prediction"], first["reference"], first["error"]) == (
        "q0",
        "image0",
        "image0",
        None,
    )
    assert (first["options"], first["modality"], first["answer_type"]) == (OPTIONS, "CT", "CLOSED")
    assert all(line["prediction"] != line["reference"] for line in lines(folder / "predictions_shuffled_image.jsonl"))
    reliance = result["image_reliance"]
    assert {name: part["value"] for name, part in reliance.items() if name != "image_sensitivity_by"} == {
        "visual_reliance_score": 1.0,
        "image_sensitivity": 1.0,
        "hallucinated_visual_reasoning_rate": 0.0,
        "visual_claims": 0.0,
    }
    assert "Does it look?" in (folder / "report.html").read_text(encoding="utf-8")
    with (tmp_path / "out" / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["exact.visual_reliance_score"], row["exact.image_sensitivity"]) == ("1.0", "1.0")
    assert (row["task"], row["n"], row["exact.accuracy"], row["exact.accuracy.shuffled_image"]) == (
        "vqa",
        "8",
        "1.0",
        "0.0",
    )


def test_protocols_stand_side_by_side_and_ask_once_for_the_same_answers(questions, tmp_path):
    answers = Answers()
    names = ("exact", "llava_med_strict", "option_text", "option_text_normalized", "omnimedvqa_qa")
    result = run(questions, tmp_path / "out", answers, names)
    assert list(result["protocols"]) == list(names)
    assert sorted(answers.asked) == sorted([*(f"q{index}" for index in range(8)), *(f"q{index}" for index in range(4))])
    assert answers.scored == [f"q{index}" for index in range(4)]
    text = result["protocols"]["option_text"]
    assert (text["scores"]["accuracy"], text["n"], text["failures"], text["asked"]) == (0.5, 8, 4, "option_text")
    assert text["prompt_sha256"] != result["protocols"]["exact"]["prompt_sha256"]
    strict = result["protocols"]["llava_med_strict"]
    assert (strict["closed"]["n"], strict["scores"]["closed"]["accuracy"]) == (4, 1.0)
    assert any("4 of 8" in notice or "4 rows" in notice for notice in text["notices"])


def test_tables_and_averages_split_rows_by_their_groups(questions, tmp_path):
    result = run(questions, tmp_path / "out", Answers(broken={"q0"}))
    (none, ct) = result["tables"]["modality"]
    assert (none["modality"], none["n"], none["right"], none["value"]) == ("(none)", 4, 4, 1.0)
    assert (ct["modality"], ct["n"], ct["right"], ct["value"]) == ("CT", 4, 3, 0.75)
    assert result["averages"]["micro"]["value"] == 0.875
    assert result["averages"]["macro"]["modality"]["value"] == 0.875
    assert result["averages"]["macro"]["modality"]["low"] < 0.875


def test_a_killed_run_asks_only_what_is_missing(questions, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(questions, tmp_path / "out", Answers(stop_after=3))
    path = tmp_path / "out" / "vqa" / "predictions.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    again = Answers()
    result = run(questions, tmp_path / "out", again)
    assert again.asked == ["q2", "q3", "q4", "q5", "q6", "q7"]
    assert result == run(questions, tmp_path / "whole", Answers())
    third = Answers()
    run(questions, tmp_path / "out", third)
    assert third.asked == []


def test_other_settings_need_another_folder_overwrite_or_consent(questions, tmp_path):
    run(questions, tmp_path / "out", Answers())
    warmer = {**SETTINGS, "temperature": 1.0}
    with pytest.raises(UserError, match=r"temperature: 0.0 there, 1.0 now.*output_dir=.*overwrite=true.*keep_old"):
        run(questions, tmp_path / "out", Answers(), settings=warmer)
    kept = Answers()
    mixed = run(questions, tmp_path / "out", kept, settings=warmer, keep_old=True)
    assert (kept.asked, mixed["notices"]) == ([], ["8 answers were made under other settings than these"])
    again = Answers()
    result = run(questions, tmp_path / "out", again, ("exact", "medplib"), warmer, overwrite=True)
    assert (len(again.asked), result["notices"]) == (8, [])


def test_rows_that_cannot_be_answered_are_failures_and_the_others_are_asked(questions, tmp_path):
    (tmp_path / "image3.png").unlink()
    result = run(questions, tmp_path / "out", Answers(broken={"q0", "q6"}))
    assert (result["n"], result["failures"], result["scores"]["accuracy"]) == (8, 3, 0.625)
    assert any("image3.png does not exist" in notice for notice in result["notices"])
    errors = {line["question_id"]: line["error"] for line in lines(tmp_path / "out" / "vqa" / "predictions.jsonl")}
    assert "image3.png does not exist" in errors["q3"]
    assert errors["q6"] == "request q6 has a damaged image"
    repaired = Answers()
    assert run(questions, tmp_path / "out", repaired)["failures"] == 1
    assert repaired.asked == ["q0", "q6"]


def test_an_answer_that_was_cut_is_counted(questions, tmp_path):
    class Cut(Answers):
        def generate(self, requests, on_result):
            for index, request in enumerate(requests):
                failed = request.id == "q1"
                on_result(index, Generation("" if failed else "x", [], "error" if failed else "length", "bad" * failed))

    result = run(questions, tmp_path / "out", Cut())
    assert (result["failures"], result["truncated"]) == (1, 7)


def test_a_mistake_that_concerns_every_row_stops_the_run(questions, tmp_path):
    with pytest.raises(UserError, match="none of the 8 rows can be answered; the first one: request q0"):
        run(questions, tmp_path / "out", Answers(broken={f"q{index}" for index in range(8)}))
    assert not (tmp_path / "out" / "vqa" / "metrics.json").exists()


def test_a_control_that_cannot_be_run_is_a_notice(tmp_path):
    path = tmp_path / "vqa.jsonl"
    path.write_text(json.dumps({"question": "Which?", "reference": "none"}))
    result = run(path, tmp_path / "out", Answers(), controls=("shuffled_image",))
    assert result["notices"] == [
        "control shuffled_image was not run: images cannot be shuffled: the rows have 0 distinct images"
    ]
    with pytest.raises(UserError, match="controls: mirror is unknown; there are shuffled_image, no_image"):
        run(path, tmp_path / "out", Answers(), controls=("mirror",))


def test_runs_line_up_in_one_table(questions, tmp_path):
    table = tmp_path / "results.csv"
    for name in ("one", "two", "one"):
        run(questions, tmp_path / name, Answers(), results_csv=table, name=name)
    with table.open() as file:
        assert [row["checkpoint"] for row in csv.DictReader(file)] == ["one", "two"]


def test_captions_also_leave_the_raw_and_the_score_table(tmp_path, monkeypatch):
    def fake(predictions, references):
        values = [float(text == texts[0]) for text, texts in zip(predictions, references, strict=True)]
        names = ("Bleu_1", "CIDEr")
        counts = np.ones((len(values), 10))
        return CaptionScores(dict.fromkeys(names, 0.25), dict.fromkeys(names, values), counts)

    monkeypatch.setattr(coco, "caption_metrics", fake)
    records = []
    for index, text in enumerate(["image0", 'a "quoted", Läsion']):
        Image.new("L", (4, 4)).save(tmp_path / f"image{index}.png")
        turns = [{"from": "human", "value": "①" * 50}, {"from": "gpt", "value": text}]
        records.append({"conversations": turns, "image": f"image{index}.png", "meta": ""})
    source = tmp_path / "captions.json"
    source.write_text(json.dumps(records))
    task = CaptionTask()
    options = RunOptions(
        tmp_path / "out",
        SETTINGS,
        name="meta_model_4",
        controls=("shuffled_image",),
        image_lengths=lambda messages: repeat(3),
    )
    result = run_task(task, task.load(source), plan_protocols(["coco"]), Answers().engine(), options)
    folder = tmp_path / "out"
    assert (folder / "metrics-meta_model_4.csv").read_bytes() == b"Bleu_1,0.250000\nCIDEr,0.250000\n"
    raw = folder / "metrics-raw-meta_model_4.csv"
    assert raw.read_bytes().startswith(b"\xef\xbb\xbfimage,instruction,output,generated\n")
    prompt = (
        "<|start_header_id|>user<|end_header_id|>\n\n①①①<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    with raw.open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.reader(file))
    assert table[1:] == [
        [str(tmp_path / "image0.png"), prompt, "image0", "image0"],
        [str(tmp_path / "image1.png"), prompt, 'a "quoted", Läsion', "image1"],
    ]
    assert result["controls"]["shuffled_image"]["scores"]["CIDEr"] == 0.25
    html = (folder / "caption" / "report.html").read_text(encoding="utf-8")
    assert "Rows that reach a CIDEr" in html


def test_the_page_shows_numbers_tables_answers_and_settings(questions, tmp_path):
    result = run(
        questions,
        tmp_path / "out",
        Answers(broken={"q1"}),
        ("exact", "medplib"),
        controls=("shuffled_image",),
    )
    html = (tmp_path / "out" / "vqa" / "report.html").read_text(encoding="utf-8")
    expected = ["vqa.jsonl", "87.5 %", "1 without an answer", "By modality", "3 / 4", "✓ right", "✗ wrong", "medplib"]
    expected += ["What is taken for what", "images shuffled", "the image matters", "request q1 has a damaged image"]
    for piece in [*expected, result["dataset"]["sha256"], "temperature", "prompt of exact"]:
        assert piece in html, piece
