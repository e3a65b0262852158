import json

import pytest

from helpers.chat_questions import chat_row, write_chat_questions
from medcap.datasets.published.llava_med_chat import CAPTIONS
from medcap.errors import UserError
from medcap.evaluation.tasks.questions.chat import ChatTask


def test_a_question_has_its_figure_reference_type_domain_and_context(tmp_path):
    write_chat_questions(tmp_path, [chat_row(0), chat_row(1)])
    first, second = ChatTask().load(tmp_path).rows
    assert (first.id, first.text, first.references) == ("0", "What is seen in figure 0?", ("The organ of figure 0.",))
    assert first.image.path.endswith("LLaVA-Med/images/18063890_F0.jpg")
    assert first.meta == {
        "question_type": "conversation",
        "modality": "CXR",
        "context": "Figure Caption:\nFig. 0: Caption 0.\n\nFigure Context:\n\t- See Fig. 0 .",
    }
    assert (second.meta["question_type"], second.meta["modality"], second.problem) == ("detail", "MRI", None)


def test_a_figure_of_two_domains_is_of_the_first_as_published(tmp_path):
    flags = {"chest_xray": False, "mri": False, "ct_scan": True, "histology": True, "gross": True}
    write_chat_questions(tmp_path, [chat_row(0, domain=flags)])
    assert ChatTask().load(tmp_path).rows[0].meta["modality"] == "Histology"


@pytest.mark.parametrize("by_domain", [False, True])
def test_captions_come_from_the_file_of_captions_where_a_row_has_none(tmp_path, by_domain):
    row = chat_row(0, fig_caption=None, fig_label=None, in_text_mention=None, domain=None)
    path = write_chat_questions(tmp_path, [row])
    figure = {
        "pair_id": "18063890_F0",
        "fig_label": "Figure 3",
        "fig_caption": "A cyst.",
        "in_text_mention": ["One.", "Two."],
    }
    figure["domain"] = {"ct_scan": True}
    path.with_name(CAPTIONS).write_text(json.dumps([{"ct_scan": [figure]}] if by_domain else [figure]))
    (question,) = ChatTask().load(tmp_path).rows
    assert question.meta["context"] == "Figure Caption:\nFigure 3: A cyst.\n\nFigure Context:\n\t- One.\n\t- Two."
    assert question.meta["modality"] == "CT"


def test_what_cannot_be_asked_stays_as_a_failure_and_counts_are_compared(tmp_path):
    rows = [chat_row(0), chat_row(1, gpt4_answer=""), chat_row(2, image=None), chat_row(3, text="<image>")]
    path = write_chat_questions(tmp_path, rows)
    (path.parent / "images" / "18063891_F1.jpg").unlink()
    benchmark = ChatTask().load(tmp_path)
    problems = [row.problem or "" for row in benchmark.rows]
    assert problems[0] == ""
    assert problems[1] == "the file gives no answer of GPT-4"
    assert problems[2] == "the file names no image"
    assert "18063891_F1.jpg does not exist" in problems[3]
    assert benchmark.notices[0] == "read 4 rows; the published test set has 193"


def test_another_file_is_told_by_its_first_row(tmp_path):
    path = write_chat_questions(tmp_path, [chat_row(0)])
    path.write_text('{"question": "q", "answer": "a"}\n')
    with pytest.raises(UserError, match="its first row has no 'text'"):
        ChatTask().load(tmp_path)
