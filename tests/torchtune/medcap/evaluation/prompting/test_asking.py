import pytest

from helpers.recorded_engine import RecordedEngine, question_row
from medcap.errors import UserError
from medcap.evaluation.answering import PredictionStore
from medcap.evaluation.prompting import ALL_PROTOCOLS, PROMPT_METHODS, VQA_TYPES, check_plans, plan_protocols
from medcap.evaluation.prompting.medcap_2024 import MODES
from medcap.scoring.protocols.base import Prompt

BIRD = [f"bird_{task}{end}" for task in ("vg", "ro", "gc", "mii") for end in ("", "_strict")]
BOXES = [*BIRD, "colongpt", "colongpt_strict", "boxes"]
MASKS = ["medplib_seg", "masks"]
WORDS = ["llava_med", "llava_med_batch", "llava_med_strict", "medplib", "exact", "coco", "coco_strict"]
HARNESSES = ["medevalkit", "medevalkit_corrected", "lmms_eval_slake"]
IMAGECLEF = ["imageclef_rouge", "imageclef_bertscore"]
FREE = [*WORDS, *HARNESSES, *IMAGECLEF, *BOXES, *MASKS]
OTHERS = [name for name in ALL_PROTOCOLS if name not in (*BOXES, *MASKS)]


def test_published_names():
    assert VQA_TYPES == (
        "direct",
        "no_cond_desc",
        "no_cond_desc_no_image",
        "cond_desc",
        "cond_desc_no_image",
        "omit",
    )
    assert sorted(OTHERS) == [
        "coco",
        "coco_strict",
        "exact",
        "imageclef_bertscore",
        "imageclef_rouge",
        "llava_med",
        "llava_med_batch",
        "llava_med_strict",
        "lmms_eval_slake",
        "medcap_letter",
        "medcap_option",
        "medevalkit",
        "medevalkit_corrected",
        "medplib",
        "omnimedvqa_prefix",
        "omnimedvqa_qa",
        "option_letter",
        "option_text",
        "option_text_normalized",
        "report_options",
        "vlmevalkit",
    ]


def test_every_protocol_has_its_prompt_method_field_and_file():
    plans = plan_protocols(list(ALL_PROTOCOLS), "cond_desc")
    assert {plan.protocol.name: (plan.method.name, plan.protocol.field, plan.method.file) for plan in plans} == {
        **dict.fromkeys(FREE, ("cond_desc", "prediction", "predictions")),
        "vlmevalkit": ("lettered_options", "prediction", "predictions_lettered_options"),
        **dict.fromkeys(
            ["omnimedvqa_qa", "report_options"], ("listed_options", "prediction", "predictions_listed_options")
        ),
        **dict.fromkeys(
            ["medcap_letter", "medcap_option"], ("mapped_option", "prediction", "predictions_mapped_option")
        ),
        "option_text": ("option_text", "prediction", "predictions_option_text"),
        "option_text_normalized": ("option_text", "prediction_normalized", "predictions_option_text"),
        "option_letter": ("option_letter", "prediction", "predictions_option_letter"),
        "omnimedvqa_prefix": ("omnimedvqa_prefix", "prediction_normalized", "predictions_omnimedvqa_prefix"),
    }


def test_protocols_that_need_the_same_answers_share_a_prompt_method():
    plans = {plan.protocol.name: plan.method for plan in plan_protocols(list(ALL_PROTOCOLS), "omit")}
    assert len({id(method) for method in plans.values()}) == 7
    assert plans["llava_med"] is plans["exact"] is plans["coco"]
    assert plans["medcap_letter"] is plans["medcap_option"]
    assert plans["medcap_letter"].free is plans["exact"]
    assert plans["option_text"] is plans["option_text_normalized"]


def test_a_shared_prompt_method_asks_once(tmp_path):
    rows = [question_row("q1", "Is it?", "a.png", options=("yes", "no"))]
    model = RecordedEngine()
    store = PredictionStore(tmp_path, {})
    for plan in plan_protocols(["medcap_option", "medcap_letter", "exact", "llava_med"]):
        plan.method.ask(rows, model.engine(), store)
    assert len(model.requests) == 2


def test_the_order_stays_and_a_name_counts_once():
    plans = plan_protocols(["exact", "option_text", "exact", "llava_med"])
    assert [plan.protocol.name for plan in plans] == ["exact", "option_text", "llava_med"]
    assert [plan.method.name for plan in plans] == ["direct", "option_text", "direct"]


def test_a_vqa_type_that_does_not_exist():
    with pytest.raises(UserError, match=r"^vqa_type=no_cond is unknown; there are direct, no_cond_desc, .*omit$"):
        plan_protocols(["exact"], "no_cond")


def test_a_protocol_that_does_not_exist_names_the_nearest():
    with pytest.raises(UserError, match=r"^protocols: option_txt is unknown; did you mean option_text\? .*llava_med"):
        plan_protocols(["exact", "option_txt"])
    with pytest.raises(UserError, match=r"^protocols: zzz is unknown; there are llava_med, "):
        plan_protocols(["zzz"])
    with pytest.raises(UserError, match=r"^protocols is empty: name at least one of llava_med, "):
        plan_protocols([])


def test_every_declared_prompt_has_its_method():
    assert set(PROMPT_METHODS) == set(Prompt)


@pytest.mark.parametrize(
    ("protocol", "missing"),
    [
        *((name, "options") for name in ALL_PROTOCOLS if name not in FREE),
        ("llava_med", "answer_type"),
        ("llava_med_strict", "answer_type"),
        ("medplib", "answer_type"),
    ],
)
def test_rows_that_lack_what_a_protocol_needs_are_found_before_anything_is_asked(protocol, missing):
    rows = [question_row("q1", "Is it?", "a.png"), question_row("q2", "What is it?", "a.png")]
    with pytest.raises(UserError, match=f"{protocol}.*{missing}"):
        check_plans(plan_protocols(["exact", protocol]), rows)


def test_rows_that_have_what_protocols_need_pass():
    rows = [
        question_row("q1", "Is it?", "a.png", options=("yes", "no"), answer_type="CLOSED"),
        question_row("q2", "What is it?", "a.png", reference="a lung", answer_type="OPEN"),
    ]
    check_plans(plan_protocols([name for name in OTHERS if name != "imageclef_bertscore"], dataset="vqarad"), rows)


def test_medevalkit_asks_as_the_benchmark_needs_it():
    names = ["medevalkit", "medevalkit@564d279", "vlmevalkit", "exact"]
    plans = plan_protocols(names, dataset="pmcvqa")
    assert [(plan.protocol.name, plan.method.name) for plan in plans] == [
        ("medevalkit", "lettered_options"),
        ("medevalkit@564d279", "lettered_options"),
        ("vlmevalkit", "lettered_options"),
        ("exact", "direct"),
    ]
    assert plans[0].method is plans[2].method
    assert [plan.method.name for plan in plan_protocols(["medevalkit"], dataset="slake")] == ["direct"]


def test_rows_without_masks_are_found_before_anything_is_asked():
    rows = [question_row("q1", "What is it?", "a.png", reference="a lung")]
    for name in MASKS:
        with pytest.raises(UserError, match=f"{name}: no row asks for a mask: give rows 'reference_mask'"):
            check_plans(plan_protocols([name]), rows)


def test_rows_without_boxes_are_found_before_anything_is_asked():
    rows = [question_row("q1", "What is it?", "a.png", reference="a lung")]
    for name, missing in (
        ("boxes", "no row asks for a box: give rows 'reference_boxes'"),
        ("bird_vg", "no row asks for a box"),
        ("bird_ro", "the name of its image begins with 'a.png'"),
        ("colongpt", "no row is of the task CLS, REG or REC .*give each row its 'task'"),
    ):
        with pytest.raises(UserError, match=f"{name}.*{missing}"):
            check_plans(plan_protocols([name]), rows)


def test_captions_are_not_scored_beforehand(monkeypatch):
    (plan,) = plan_protocols(["coco"])

    def score(answers):
        raise AssertionError("it takes minutes")

    monkeypatch.setattr(plan.protocol, "score", score)
    check_plans([plan], [question_row("q1", "", "a.png")])


def test_every_template_shows_where_a_rows_words_go():
    templates = {plan.method.name: plan.method.template for plan in plan_protocols(list(ALL_PROTOCOLS))}
    assert templates["direct"] == "user: {image}\n{question}\nassistant: "
    assert templates["option_text"] == ("user: {image}\n{question}\nassistant: [each option and the end of the turn]")
    assert templates["mapped_option"] == (
        "user: {image}\n{question}\nassistant: \n---\nuser: Question: {question}\nOur answer: {answer}\n"
        "{lettered options}\n\nBased on the question and our answer, respond with only the letter of the correct"
        " option from the given choices.\nassistant: "
    )
    modes = {mode: plan_protocols(["exact"], mode)[0].method.template for mode in MODES}
    assert modes["omit"] == "user: {image}\nassistant: ...\nuser: {question}\nassistant: "
    assert modes["no_cond_desc_no_image"] == (
        "user: {image}\nassistant: {description}\n---\n"
        "user: Describe the image.\nassistant: {description}\nuser: {question}\nassistant: "
    )
    assert modes["cond_desc"] == (
        "user: {image}\nassistant: ...\nuser: Describe the image to answer the question: {question}\n"
        "assistant: {description}\n---\n"
        "user: {image}\nassistant: {description}\nuser: {question}\nassistant: "
    )
    assert len({*templates.values(), *modes.values()}) == len(templates) + len(modes)
