import json
from pathlib import Path

from PIL import Image

from helpers.pages import ATTACK, check
from helpers.recorded_engine import fake_engine
from medcap.data.images.reader import ImageReader
from medcap.errors import UserError
from medcap.evaluation.prompting import plan_protocols
from medcap.evaluation.runner import run_task
from medcap.evaluation.scored import RunOptions
from medcap.evaluation.task_report import _fall
from medcap.evaluation.tasks.questions.vqa import VqaTask
from medcap.generation.request import Generation

# A file's name cannot hold a slash.
NAME = ATTACK.replace("/", "|")


def page_of(folder: Path, rows: list[dict], answer, protocol: str = "exact") -> str:
    """The page of a run over these rows; ``answer`` gives what the model says to a request."""

    def generate(requests, on_result):
        for index, request in enumerate(requests):
            on_result(index, Generation(answer(request), [1], "stop"))

    source = folder / f"{NAME}.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = VqaTask()
    benchmark = task.load(source)
    options = RunOptions(folder / "out", {"checkpoint": ATTACK, "sampling": {ATTACK: ATTACK}}, name=NAME)
    engine = fake_engine(generate, generate)
    run_task(task, benchmark, plan_protocols([protocol]), engine, options, ImageReader(benchmark.image_roots))
    return (folder / "out" / "vqa" / "report.html").read_text(encoding="utf-8")


def test_hostile_rows_answers_files_and_settings_stay_text(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / f"{NAME}.png")
    texts = {"id": ATTACK, "question": ATTACK, "modality": ATTACK, "question_type": ATTACK, "organ": ATTACK}
    choice = {"options": [ATTACK, "b"], "answer_type": "CLOSED"}
    rows = [
        {**texts, "image": f"{NAME}.png", "reference": [ATTACK, "b"]},
        {**texts, "id": "1", "image": f"{NAME}.png", "reference": ATTACK, **choice},
        {**texts, "id": "2", "image": f"missing {NAME}.png", "reference": ATTACK},
        {**texts, "id": "3", "image": f"{NAME}.png", "reference": "b"},
    ]

    def answer(request):
        if request.id == "3":
            raise UserError(f"request {ATTACK} has a damaged image")
        return ATTACK

    checker = check(page_of(tmp_path, rows, answer))
    assert "script" not in checker.tags
    assert len(checker.addresses) == 3
    assert all(address.startswith("data:image/jpeg;base64,") for address in checker.addresses)
    # Question, answer, reference, organ, tag; settings; the file's name.
    assert checker.text.count(ATTACK) > 15
    assert f"Visual questions: {NAME}.jsonl" in checker.text


def test_boxes_are_drawn_and_their_accuracy_is_charted(tmp_path):
    Image.new("L", (400, 200)).save(tmp_path / f"{NAME}.png")
    liver, nothing = "<ref>liver</ref><box>(250,200),(750,600)</box>", "There is no polyp."
    rows = [
        {
            "id": str(number),
            "question": "Where is it?",
            "image": f"{NAME}.png",
            "reference": reference,
            "modality": "CT",
        }
        for number, reference in enumerate((liver, liver, nothing))
    ]

    def answer(request):
        return {"0": "[250, 200, 750, 400]", "1": "I see nothing", "2": "<box>(0,0),(9,9)</box>"}[request.id]

    page = " ".join(page_of(tmp_path, rows, answer, "boxes").split())
    assert page.count('<svg class="drawn" viewBox="0 0 400 200"') == 3
    # Reference and answer, each with a dark edge below its line.
    assert page.count('x="100.0" y="40.0" width="200.0" height="80.0"/>') == 4
    assert page.count('x="100.0" y="40.0" width="200.0" height="40.0"/>') == 2
    assert ">liver</text>" in page and ">IoU 0.50</text>" in page
    assert "none expected" in page
    assert "Accuracy by IoU threshold" in page and "own image (n = 2)" in page
    assert "large, above 10 %" not in page  # of one size only


def test_a_page_without_boxes_has_neither(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / f"{NAME}.png")
    row = {"id": "1", "question": "Is it?", "image": f"{NAME}.png", "reference": "no"}
    page = page_of(tmp_path, [row], lambda request: "no")
    assert "IoU" not in page and '<svg class="drawn"' not in page


def test_a_score_that_rises_under_a_control_is_worded_so():
    fall = {"value": -0.676, "low": -0.8, "high": -0.5}
    assert _fall("no_image", fall, share=True) == "Rises by 67.6 points (50.0 to 80.0): no proof that the image matters"
    assert _fall("no_image", {"value": 0.3, "low": -0.1, "high": 0.5}, share=False) == (
        "Falls by 0.300 (-0.100 to 0.500): no proof that the image matters"
    )
    assert _fall("exchanged_question", {"value": 0.5, "low": None, "high": None}, share=True) == (
        "Falls by 50.0 points (no interval: one image): no proof that it is more than the control"
    )


def test_a_bleu_without_a_common_pair_of_words_is_shown_as_0(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    row = {"id": "1", "image": "a.png", "question": "What?", "reference": "left lung", "answer_type": "OPEN"}
    rows = [row, {**row, "id": "2"}]
    text = check(page_of(tmp_path, rows, lambda request: "the lung", protocol="llava_med")).text
    assert "open bleu 2" in text and "e-" not in text.partition("All scores")[2].partition("By ")[0]
