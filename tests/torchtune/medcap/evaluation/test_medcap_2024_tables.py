import csv
from itertools import repeat

from helpers.recorded_engine import RecordedEngine, question_row
from medcap.evaluation.answering import PredictionStore
from medcap.evaluation.medcap_2024_tables import caption_tables, omnimedvqa_tables, vqarad_table
from medcap.evaluation.prompting import plan_protocols
from medcap.evaluation.scored import RunOptions, Scored
from medcap.evaluation.tasks.registry import TASKS
from medcap.scoring.protocols.base import ProtocolScores
from medcap.scoring.protocols.coco import Coco

USER, ASSISTANT = (f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("user", "assistant"))
END = "<|eot_id|>"
RAW = ["image", "instruction", "output", "generated"]
OPTIONS = ["option_A", "option_B", "option_C", "option_D"]
ROWS = [
    question_row("ct-1", "Which?", "a.png", "nodule", ("ring", "nodule", "cross", "cluster"), meta={"modality": "CT"}),
    question_row("xr-1", "Is it?", "b.png", "no", ("yes", "no"), meta={"modality": "X-Ray"}),
    question_row("xr-2", 'Is it "so", then?', "b.png", "no", ("yes", "no"), meta={"modality": "X-Ray"}),
]


def asked(folder, rows, protocols, vqa_type, model):
    """Answers to rows with their scores, as a run has them."""
    result = []
    for plan in plan_protocols(protocols, vqa_type):
        entries = plan.method.ask(rows, model.engine(), PredictionStore(folder / "answers", {}))
        result.append(Scored(plan, entries, plan.protocol.score(plan.answers(rows, entries))))
    return result


def reply(request):
    """A description, an answer, and as a letter B, "The answer" and nothing that can be read."""
    if request.max_new_tokens == 20:
        return {"ct-1": "B.", "xr-1": "The answer", "xr-2": "b"}[request.id]
    return f"about {request.id}"


def read(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        return reader.fieldnames, list(reader)


def files(folder):
    return sorted(path.name for path in folder.glob("*.csv"))


def options_of(output_dir, **fields):
    return RunOptions(output_dir, name="meta_model_4", image_lengths=lambda messages: repeat(3), **fields)


def test_omnimedvqa_in_medcaps_columns(tmp_path):
    scored = asked(tmp_path, ROWS, ["medcap_letter"], "no_cond_desc", RecordedEngine(reply))
    omnimedvqa_tables(ROWS, scored, options_of(tmp_path, folder="omnimedvqa"))
    raw, judged = "omnimedvqa-no_cond_desc-raw-meta_model_4.csv", "omnimedvqa-no_cond_desc-raw-meta_model_4-0.75.csv"
    assert files(tmp_path) == [judged, raw]
    assert (tmp_path / raw).read_bytes().startswith(b"\xef\xbb\xbfimage,instruction,output,generated,option_A,")
    columns, lines = read(tmp_path / raw)
    assert columns == [*RAW, *OPTIONS, "modality_type", "question_id"]
    assert lines[0] == {
        "image": "a.png",
        "instruction": (f"{USER}①①①{END}{ASSISTANT}about a.png{END}{USER}Which?{END}{ASSISTANT}"),
        "output": "nodule",
        "generated": "about ct-1",
        "option_A": "ring",
        "option_B": "nodule",
        "option_C": "cross",
        "option_D": "cluster",
        "modality_type": "CT",
        "question_id": "ct-1",
    }
    assert [(line["option_B"], line["option_C"], line["option_D"]) for line in lines[1:]] == [("no", "", "")] * 2
    assert f'{USER}Is it "so", then?{END}{ASSISTANT}' in lines[2]["instruction"]
    columns, lines = read(tmp_path / judged)
    assert columns == [*RAW, *OPTIONS, "modality_type", "question_id", "predict_generated", "predict", "correct"]
    assert [(line["predict_generated"], line["predict"], line["correct"]) for line in lines] == [
        ("B.", "B", "1"),
        ("The answer", "T", "0"),
        ("b", "B", "1"),
    ]


def test_a_robustly_parsed_option_is_reported_by_its_letter(tmp_path):
    rows = [
        question_row("ct-1", "Which?", "a.png", "B", ("B", "A"), meta={"modality": "CT"}),
        question_row("xr-1", "Which?", "b.png", "no", ("yes", "no"), meta={"modality": "X-Ray"}),
        question_row("xr-2", "Which?", "b.png", "no", ("yes", "no"), meta={"modality": "X-Ray"}),
    ]
    replies = {"ct-1": "A.", "xr-1": "I do not know", "xr-2": "The answer is no"}
    model = RecordedEngine(lambda request: replies[request.id])
    predicted = {}
    for protocol in ("medcap_option", "medcap_letter"):
        folder = tmp_path / protocol
        omnimedvqa_tables(rows, asked(folder, rows, [protocol], "direct", model), options_of(folder))
        (judged,) = folder.glob("*-raw-meta_model_4-*.csv")
        predicted[protocol] = [(line["predict"], line["correct"]) for line in read(judged)[1]]
    # The letter A is the option "B".
    assert predicted["medcap_letter"] == [("A", "1"), ("I", "0"), ("T", "0")]
    assert predicted["medcap_option"] == [("A", "1"), ("", "0"), ("B", "1")]


def test_golden_letters_of_two_modalities(tmp_path):
    rows = [
        question_row("1", "Which?", "a.png", "nodule", ("nodule", "ring"), meta={"modality": "CT"}),
        question_row("2", "Which?", "b.png", "ring", ("nodule", "ring"), meta={"modality": "X-Ray"}),
    ]
    model = RecordedEngine(lambda request: {"1": "A.", "2": "b"}[request.id])
    scored = asked(tmp_path, rows, ["medcap_letter"], "omit", model)
    omnimedvqa_tables(rows, scored, options_of(tmp_path))
    _, lines = read(tmp_path / "omnimedvqa-omit-raw-meta_model_4-1.0.csv")
    assert [(line["predict"], line["correct"]) for line in lines] == [("A", "1"), ("B", "1")]


def test_a_part_has_its_number_in_the_name(tmp_path):
    scored = asked(tmp_path, ROWS, ["medcap_option", "medcap_letter"], "omit", RecordedEngine(reply))
    omnimedvqa_tables(ROWS, scored, options_of(tmp_path, folder="omnimedvqa-2_5"))
    assert files(tmp_path) == [
        "omnimedvqa-omit-raw-meta_model_4-2_5-0.75.csv",
        "omnimedvqa-omit-raw-meta_model_4-2_5.csv",
    ]


def test_free_answers_that_were_not_mapped_leave_the_raw_table_alone(tmp_path):
    scored = asked(tmp_path, ROWS, ["exact", "option_text"], "omit", RecordedEngine(reply))
    omnimedvqa_tables(ROWS, scored, options_of(tmp_path))
    assert files(tmp_path) == ["omnimedvqa-omit-raw-meta_model_4.csv"]
    _, lines = read(tmp_path / "omnimedvqa-omit-raw-meta_model_4.csv")
    assert [line["generated"] for line in lines] == ["about ct-1", "about xr-1", "about xr-2"]
    assert lines[1]["instruction"] == f"{USER}①①①{END}{ASSISTANT}...{END}{USER}Is it?{END}{ASSISTANT}"


def test_likelihoods_alone_leave_no_table(tmp_path):
    scored = asked(tmp_path, ROWS, ["option_text"], "direct", RecordedEngine())
    omnimedvqa_tables(ROWS, scored, options_of(tmp_path))
    assert files(tmp_path) == []


def test_an_answer_that_failed_is_an_empty_cell(tmp_path):
    scored = asked(tmp_path, ROWS, ["medcap_letter"], "cond_desc", RecordedEngine(reply, unanswered=["ct-1"]))
    omnimedvqa_tables(ROWS, scored, options_of(tmp_path))
    (judged,) = tmp_path.glob("*-raw-meta_model_4-*.csv")
    line = read(judged)[1][0]
    assert (line["generated"], line["predict_generated"], line["predict"], line["correct"]) == ("", "", "", "0")


def test_vqarad_holds_the_closed_questions(tmp_path):
    rows = [
        question_row("1", "Is it?", "a.png", "yes", answer_type="CLOSED"),
        question_row("2", "What is it?", "a.png", "a lung", answer_type="OPEN"),
        question_row("3", "Is it large?", "b.png", "no", answer_type="CLOSED"),
    ]
    model = RecordedEngine(reply)
    scored = asked(tmp_path, rows, ["exact"], "no_cond_desc_no_image", model)
    vqarad_table(rows, scored, options_of(tmp_path))
    assert files(tmp_path) == ["vqarad-no_cond_desc_no_image-raw-meta_model_4.csv"]
    columns, lines = read(tmp_path / files(tmp_path)[0])
    assert columns == RAW
    assert [(line["image"], line["output"], line["generated"]) for line in lines] == [
        ("a.png", "yes", "about 1"),
        ("b.png", "no", "about 3"),
    ]
    assert lines[1]["instruction"] == (
        f"{USER}Describe the image.{END}{ASSISTANT}about b.png{END}{USER}Is it large?{END}{ASSISTANT}"
    )


def test_without_a_checkpoints_name_files_bear_the_tasks(tmp_path):
    rows = [question_row("1", "What is it?", "a.png", "a lung", answer_type="OPEN")]
    scored = asked(tmp_path, rows, ["exact"], "direct", RecordedEngine())
    vqarad_table(rows, scored, RunOptions(tmp_path))
    assert (tmp_path / "vqarad-direct-raw-vqarad.csv").read_bytes() == (
        b"\xef\xbb\xbfimage,instruction,output,generated\n"
    )


def test_captions_leave_the_raw_table_and_the_scores_of_coco(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Coco, "score", lambda self, answers: ProtocolScores({"Bleu_1": 0.25, "CIDEr": 7.65138}, {}, [], {})
    )
    rows = [question_row("1", "", "a.png", "Clear lungs.")]
    scored = asked(tmp_path, rows, ["exact", "coco"], "direct", RecordedEngine(reply))
    caption_tables(rows, scored, options_of(tmp_path))
    assert files(tmp_path) == ["metrics-meta_model_4.csv", "metrics-raw-meta_model_4.csv"]
    assert (tmp_path / "metrics-meta_model_4.csv").read_bytes() == b"Bleu_1,0.250000\nCIDEr,7.651380\n"
    _, (line,) = read(tmp_path / "metrics-raw-meta_model_4.csv")
    assert line == {
        "image": "a.png",
        "instruction": f"{USER}①①①{END}{ASSISTANT}",
        "output": "Clear lungs.",
        "generated": "about 1",
    }


def test_the_tasks_of_medcap_have_its_tables_and_no_other():
    assert {name: task.legacy_table for name, task in TASKS.items() if task.legacy_table} == {
        "caption": caption_tables,
        "omnimedvqa": omnimedvqa_tables,
        "vqarad": vqarad_table,
    }


def test_a_row_that_the_rule_does_not_decide_has_an_empty_cell(tmp_path):
    (part,) = asked(tmp_path, ROWS[:2], ["medcap_letter"], "omit", RecordedEngine(reply))
    part.scores.rows[1] = {"question_id": "xr-1", "correct": None, "value": None}
    omnimedvqa_tables(ROWS[:2], [part], options_of(tmp_path))
    (judged,) = tmp_path.glob("*-raw-meta_model_4-*.csv")
    assert [line["correct"] for line in read(judged)[1]] == ["1", ""]
