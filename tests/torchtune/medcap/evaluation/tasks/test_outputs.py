from html.parser import HTMLParser

from PIL import Image
from torchtune.data import Message

from medcap.evaluation.tasks.base import Row
from medcap.evaluation.tasks.outputs import prompt_text, write_page
from medcap.evaluation.tasks.vqa import VqaTask


class Words(HTMLParser):
    def __init__(self):
        super().__init__()
        self.words = []

    def handle_data(self, data):
        self.words.append(data)


def test_prompt_text_is_the_template_with_runs_of_placeholders():
    content = [{"type": "image", "content": "a.png"}, {"type": "text", "content": "\nWhat? "}]
    row = Row("0", [Message(role="system", content="Be brief."), Message(role="user", content=content)], ["x"])
    assert prompt_text(row, 2) == (
        "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n①①\nWhat?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_the_page_shows_numbers_tables_answers_and_settings(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    messages = [Message(role="user", content="What is shown?")]
    rows = [Row(str(index), messages, ["liver"], tmp_path / "a.png", {"modality": "CT"}) for index in range(4)]
    answers = [{"generated": text, "error": None} for text in ("Liver", "spleen", "", "liver")]
    task = VqaTask()
    metrics, row_scores = task.score(rows, [answer["generated"] for answer in answers])
    result = {
        **metrics,
        "n": 4,
        "failures": 1,
        "truncated": 0,
        "dataset": {"source": "data/vqa.jsonl", "sha256": "ab" * 32, "rows": 4},
        "controls": {},
        "settings": {"temperature": 0.0},
    }
    write_page(tmp_path / "report.html", task, rows, answers, row_scores, {}, result)
    words = Words()
    words.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    text = " ".join(words.words)
    expected = ["vqa.jsonl", "50.0 %", "1 without an answer", "By modality", "2 / 4", "✓ right", "✗ wrong", "spleen"]
    for piece in [*expected, "no answer", "ab" * 32, "temperature"]:
        assert piece in text, piece


def test_scored_rows_show_how_many_reach_a_score_with_and_without_their_image(tmp_path):
    class Scored(VqaTask):
        name, headline, marks_rows = "caption", "CIDEr", False

    rows = [Row(str(index), [Message(role="user", content="")], ["clear lungs"]) for index in range(2)]
    answers = [{"generated": "clear lungs", "error": None}] * 2
    control = {"scores": {"CIDEr": 0.0}, "intervals": {}, "fall": {"value": 0.75, "low": -0.1, "high": 1.5}}
    result = {
        "scores": {"CIDEr": 0.75, "CIDEr_shuffled": 0.0},
        "intervals": {"CIDEr": {"low": 0.5, "high": 1.0}},
        "tables": {},
        "notices": ["SPICE is absent"],
        "n": 2,
        "failures": 0,
        "truncated": 0,
        "dataset": {"source": "a.json", "sha256": "0", "rows": 2},
        "controls": {"shuffled": control},
        "settings": {},
    }
    own, other = [{"CIDEr": 0.5}, {"CIDEr": 1.0}], [{"CIDEr": 0.0}, {"CIDEr": 0.0}]
    write_page(tmp_path / "report.html", Scored(), rows, answers, own, {"shuffled": other}, result)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Falls by 0.750 (-0.100 to 1.500): no proof that the image matters" in html
    assert "Rows that reach a CIDEr" in html
    assert "SPICE is absent" in html
    assert "CIDEr 0.50" in html
