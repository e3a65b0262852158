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
from medcap.evaluation.tasks.vqa import VqaTask
from medcap.generation.request import Generation

# A file's name cannot hold a slash.
NAME = ATTACK.replace("/", "|")


def page_of(folder: Path, rows: list[dict], answer) -> str:
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
    run_task(task, benchmark, plan_protocols(["exact"]), engine, options, ImageReader(benchmark.image_roots))
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
