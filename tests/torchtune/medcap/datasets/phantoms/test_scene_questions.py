"""Questions about scenes: true, of every task, and in words alone."""

from collections import Counter

import numpy as np
import pytest

from medcap.datasets.phantoms.records import KINDS
from medcap.datasets.phantoms.scene_questions import (
    BOX,
    TASKS,
    ask,
    describe,
    scene_questions,
    scene_text_records,
)
from medcap.datasets.phantoms.scenes import make_scene


def test_a_scene_is_asked_about_in_every_task():
    questions = scene_questions(make_scene(0, 0))
    asked = [(question.task, question.text, question.answer, question.boxes) for question in questions]
    assert asked[:6] == [
        ("DET", "Find every lesion.", "ring <BOX> and cluster <BOX>.", ("ring", "cluster")),
        ("REC", "Point at the ring.", "The ring is at <BOX>.", ("ring",)),
        ("REC", "Find the cluster.", "The cluster is at <BOX>.", ("cluster",)),
        ("REC", "Find the cross.", "There is no cross.", ()),
        ("REG", "Name the lesion in <BOX>.", "ring", None),
        ("REG", "Name the lesion in <BOX>.", "cluster", None),
    ]
    counts = {"DET": 1, "REC": 3, "REG": 2, "VQA": 7, "CAP": 1, "SEG": 3, "RVQA": 2}
    assert Counter(question.task for question in questions) == counts
    masks = [(question.answer, question.masks) for question in questions if question.task == "SEG"]
    assert masks == [("ring <SEG>.", ("ring",)), ("cluster <SEG>.", ("cluster",)), ("cross <SEG>.", ())]
    regions = [(question.text, question.answer, question.regions) for question in questions[-2:]]
    assert [row[1:] for row in regions] == [("ring", ("ring",)), ("cluster", ("cluster",))]
    assert all(text.count("<region></region>") == 1 for text, *_ in regions)
    assert [question.answer for question in questions if question.question_type in ("side", "count")] == [
        "two",
        "right",
    ]
    assert questions == scene_questions(make_scene(0, 0))


def test_answers_are_true():
    presences = Counter()
    for index in range(120):
        scene = make_scene(2, index, (1, 2, 3))
        shown = {lesion.kind: lesion for lesion in scene.lesions}
        for question in scene_questions(scene):
            assert question.answer.count(BOX) == len(question.boxes or ())
            assert not question.options or question.answer in question.options
            if question.question_type == "presence":
                assert question.kind in question.text and (question.kind in shown) == (question.answer == "yes")
                presences[question.answer] += 1
            if question.question_type in ("size", "brightness", "outline"):
                assert question.answer == getattr(shown[question.kind], question.question_type)
            if question.task == "REC":
                assert question.boxes == ((question.kind,) if question.kind in shown else ())
                assert ("There is no" in question.answer) == (question.kind not in shown)
    assert 45 < presences["yes"] < 75


def test_a_description_keeps_the_words_of_a_lesion_together():
    forms = set()
    for index in range(60):
        scene = make_scene(3, index)
        text = describe(
            scene, np.random.default_rng(index), {lesion.kind: f"[{lesion.kind}]" for lesion in scene.lesions}
        )
        # The words between two places are those of one lesion, and of the modality.
        *parts, _ = text.split("]")
        assert len(parts) == 2
        for part in parts:
            words, place = part.rsplit(" at [", 1)
            lesion = scene.lesion(place)
            assert all(value in words for value in (lesion.kind, lesion.size, lesion.brightness, lesion.outline))
            assert not any(kind in words for kind in KINDS if kind != place)
        assert scene.modality in text
        forms.add(text.split()[0])
    assert {"A", "In", "This"} <= forms and len(forms) > 5


def test_text_records_answer_in_the_words_of_the_questions():
    records = scene_text_records(120, seed=6)
    assert records[1]["id"] == "scene-text-6-000001"
    answers = Counter(record["conversations"][1]["value"] for record in records)
    assert {"yes", "no", "two", "spiky", "large", "dark", "The ring is at X.", "There is no ring."} <= set(answers)
    assert not any(BOX in turn["value"] for record in records for turn in record["conversations"])
    assert records == scene_text_records(120, seed=6)


def test_text_records_with_places_say_them_in_descriptions_questions_and_answers():
    def places(scene):
        return {lesion.kind: f"<{scene.index}-{lesion.kind}>" for lesion in scene.lesions}

    named = Counter()
    for index, record in enumerate(scene_text_records(100, seed=6, places=places)):
        human, gpt = (turn["value"] for turn in record["conversations"])
        for lesion in make_scene(6, index).lesions:
            place = f"<{index}-{lesion.kind}>"
            assert place in human
            if human.endswith((f"in {place}?", f"in {place}.")):
                named[gpt == lesion.kind] += 1
            named["answer"] += place in gpt
    assert named[True] > 5 and named[False] == 0 and named["answer"] > 15


@pytest.mark.parametrize("question_type", ["boxes", "box", "kind", "size", "caption"])
def test_a_question_can_be_asked_alone(question_type):
    question = ask(make_scene(0, 0), question_type, np.random.default_rng(0))
    assert question.question_type == question_type and question.task in TASKS


def test_short_answers_have_the_box_right_after_the_name():
    asked = [question for question in scene_questions(make_scene(0, 0), short=True) if question.task == "REC"]
    assert [question.answer for question in asked] == ["ring <BOX>.", "cluster <BOX>.", "cross <BOX>."]
    said = {record["conversations"][1]["value"] for record in scene_text_records(60, seed=6, short=True)}
    assert "ring X." in said and not any("is at" in answer or "no " in answer for answer in said)
    places = dict.fromkeys(KINDS, "here")
    records = scene_text_records(200, seed=6, places=lambda scene: places, short=True)
    answers = {record["conversations"][1]["value"] for record in records}
    assert {"ring here.", "ring not visible."} <= answers and not any("<BOX>" in answer for answer in answers)


def test_the_word_for_a_place_can_be_chosen():
    words = {"short": True, "masks": True}
    usual = scene_text_records(200, seed=6, **words)
    chosen = scene_text_records(200, seed=6, **words, somewhere="0")
    said = [[record["conversations"][1]["value"] for record in records] for records in (usual, chosen)]
    assert sum(one.endswith(" X.") for one in said[0]) > 20
    assert said[1] == [one.replace(" X", " 0") for one in said[0]]
    assert [record["conversations"][0] for record in usual] == [record["conversations"][0] for record in chosen]
