import csv
import json

import numpy as np
import pytest
from PIL import Image

from medcap.errors import UserError
from medcap.evaluation.metrics.caption import CaptionScores
from medcap.evaluation.tasks import caption
from medcap.evaluation.tasks.base import image_reader
from medcap.evaluation.tasks.caption import CaptionTask
from medcap.evaluation.tasks.runner import predict, run_task
from medcap.evaluation.tasks.vqa import VqaTask
from medcap.generation.request import Generation

SETTINGS = {"checkpoint": "abc", "temperature": 0.0}


class Answers:
    """A generator that answers with the image's name, and remembers what it was asked."""

    def __init__(self, broken=(), stop_after=None):
        self.asked = []
        self.broken = broken
        self.stop_after = stop_after

    def __call__(self, requests, on_result):
        for index, request in enumerate(requests):
            if request.id in self.broken:
                raise UserError(f"request {request.id} has a damaged image")
            if self.stop_after is not None and len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(request.id)
            images = [part["content"] for part in request.messages[-1].content if part["type"] == "image"]
            name = images[0].rpartition("/")[2].removesuffix(".png") if images else "none"
            on_result(index, Generation(name, [1, 2], "stop"))


@pytest.fixture
def questions(tmp_path):
    lines = []
    for index in range(8):
        name = f"image{index}"
        Image.new("L", (8, 8), index * 30).save(tmp_path / f"{name}.png")
        row = {"id": f"q{index}", "image": f"{name}.png", "question": "Which?", "reference": name, "modality": "CT"}
        lines.append(json.dumps(row))
    path = tmp_path / "vqa.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def run(questions, output_dir, generate, settings=SETTINGS, **options):
    task = VqaTask()
    reader = image_reader(questions)
    return run_task(
        task, task.load(questions), generate, output_dir, settings, source=questions, reader=reader, **options
    )


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_run_writes_predictions_scores_controls_and_a_page(questions, tmp_path):
    result = run(questions, tmp_path / "out", Answers())
    folder = tmp_path / "out" / "vqa"
    assert sorted(path.name for path in folder.iterdir()) == [
        "metrics.json",
        "predictions.jsonl",
        "predictions_shuffled.jsonl",
        "report.html",
        "settings.json",
    ]
    assert json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail) == result
    assert result["scores"] == {"accuracy": 1.0, "token_f1": 1.0, "accuracy_shuffled": 0.0}
    assert (result["n"], result["failures"], result["protocol"]) == (8, 0, "exact")
    assert result["controls"]["shuffled"]["fall"]["low"] == 1.0
    assert len(result["dataset"]["sha256"]) == 64
    first = lines(folder / "predictions.jsonl")[0]
    assert (first["id"], first["generated"], first["references"], first["error"]) == ("q0", "image0", ["image0"], None)
    assert all(line["generated"] != line["references"][0] for line in lines(folder / "predictions_shuffled.jsonl"))


def test_a_killed_run_asks_only_what_is_missing(questions, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(questions, tmp_path / "out", Answers(stop_after=3))
    path = tmp_path / "out" / "vqa" / "predictions.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    again = Answers()
    result = run(questions, tmp_path / "out", again, controls=())
    assert again.asked == ["q2", "q3", "q4", "q5", "q6", "q7"]
    assert result == run(questions, tmp_path / "whole", Answers(), controls=())
    third = Answers()
    run(questions, tmp_path / "out", third, controls=())
    assert third.asked == []


def test_other_settings_need_another_folder_or_overwrite(questions, tmp_path):
    run(questions, tmp_path / "out", Answers(), controls=())
    with pytest.raises(UserError, match=r"temperature: 0.0 there, 1.0 now.*output_dir=.*overwrite=true"):
        run(questions, tmp_path / "out", Answers(), {**SETTINGS, "temperature": 1.0}, controls=())
    again = Answers()
    run(questions, tmp_path / "out", again, {**SETTINGS, "temperature": 1.0}, controls=(), overwrite=True)
    assert len(again.asked) == 8


def test_rows_that_cannot_be_answered_are_failures_and_the_others_are_asked(questions, tmp_path):
    (tmp_path / "image3.png").unlink()
    result = run(questions, tmp_path / "out", Answers(broken={"q0", "q6"}), controls=())
    assert (result["n"], result["failures"], result["scores"]["accuracy"]) == (8, 3, 0.625)
    errors = {line["id"]: line["error"] for line in lines(tmp_path / "out" / "vqa" / "predictions.jsonl")}
    assert "image3.png does not exist" in errors["q3"]
    assert errors["q6"] == "request q6 has a damaged image"
    mended = Answers()
    assert run(questions, tmp_path / "out", mended, controls=())["failures"] == 1
    assert mended.asked == ["q0", "q6"]


def test_an_error_in_a_generation_is_a_failure_of_its_row(questions, tmp_path):
    def generate(requests, on_result):
        for index, request in enumerate(requests):
            failed = request.id == "q1"
            on_result(index, Generation("" if failed else "x", [], "error" if failed else "length", "bad" * failed))

    result = run(questions, tmp_path / "out", generate, controls=())
    assert (result["failures"], result["truncated"]) == (1, 7)
    assert [line["error"] for line in lines(tmp_path / "out" / "vqa" / "predictions.jsonl")][:3] == [None, "bad", None]


def test_a_mistake_that_concerns_every_row_stops_the_run(questions, tmp_path):
    everything = {f"q{index}" for index in range(8)}
    with pytest.raises(UserError, match="none of the 8 rows can be answered; the first one: request q0"):
        run(questions, tmp_path / "out", Answers(broken=everything), controls=())
    assert not (tmp_path / "out" / "vqa" / "metrics.json").exists()
    rows = VqaTask().load(questions) * 10
    rows = [type(row)(f"q{index}", row.messages, row.references) for index, row in enumerate(rows)]
    many = Answers(broken={row.id for row in rows})
    with pytest.raises(UserError, match="16 rows failed and none was answered"):
        predict(rows, many, tmp_path / "many.jsonl", SETTINGS)


def test_a_generator_that_leaves_requests_open_is_an_error(questions, tmp_path):
    with pytest.raises(RuntimeError, match="left 8 requests unanswered"):
        run(questions, tmp_path / "out", lambda requests, on_result: None)


def test_a_control_that_cannot_be_run_is_a_notice(tmp_path):
    path = tmp_path / "vqa.jsonl"
    path.write_text(json.dumps({"question": "Which?", "reference": "none"}))
    result = run(path, tmp_path / "out", Answers())
    assert result["notices"] == [
        "control shuffled was not run: images cannot be shuffled: the rows have 0 distinct image(s)"
    ]
    with pytest.raises(UserError, match="controls: mirror is unknown"):
        run(path, tmp_path / "out", Answers(), controls=("mirror",))


def test_captions_also_leave_the_raw_and_the_score_table(tmp_path, monkeypatch):
    def fake(predictions, references):
        values = [float(text == texts[0]) for text, texts in zip(predictions, references, strict=True)]
        names = ("Bleu_1", "CIDEr")
        counts = np.ones((len(values), 10))
        return CaptionScores(dict.fromkeys(names, 0.25), dict.fromkeys(names, values), counts)

    monkeypatch.setattr(caption, "caption_metrics", fake)
    records = []
    for index, text in enumerate(["image0", 'a "quoted", Läsion']):
        Image.new("L", (4, 4)).save(tmp_path / f"image{index}.png")
        turns = [{"from": "human", "value": "①" * 50}, {"from": "gpt", "value": text}]
        records.append({"conversations": turns, "image": f"image{index}.png", "meta": ""})
    source = tmp_path / "captions.json"
    source.write_text(json.dumps(records))
    task = CaptionTask()
    rows = task.load(source)
    result = run_task(
        task, rows, Answers(), tmp_path / "out", SETTINGS, source=source, name="meta_model_4", num_image_tokens=3
    )
    folder = tmp_path / "out" / "caption"
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
    assert result["scores"]["CIDEr_shuffled"] == 0.25
