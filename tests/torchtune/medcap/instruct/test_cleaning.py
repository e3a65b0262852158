import json

import pytest

from medcap.errors import UserError
from medcap.instruct.cleaning import CANNOT_SEE, INNER, NAMES_TEXT, PREFIX, REPEATED, clean_pairs
from medcap.instruct.phrases import PHRASES, read_phrases

OURS = read_phrases()


def effects_of(*answers, phrases=OURS):
    pairs = [(f"Question {number}?", answer) for number, answer in enumerate(answers)]
    kept, effects = clean_pairs(pairs, phrases)
    return [answer for _, answer in kept], [effect.rule for effect in effects]


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I cannot see the image.",
        "I’m sorry, that is unclear.",
        "As an AI, I am unable to see the figure.",
        "The age of the patient is not mentioned in the caption.",
        "That is not specified in the provided information.",
        "The figure caption does not mention the size.",
        "There is no information about the left kidney.",
        "The stage is not explicitly  stated.",
        "I cannot tell from the caption.",
        "Its size cannot be determined from the available information.",
        "",
        " ",
    ],
)
def test_an_answer_that_does_not_answer_is_removed(answer):
    assert effects_of(answer, "A cyst.") == (["A cyst."], [CANNOT_SEE])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("According to the caption, there is a mass.", "There is a mass."),
        ("According to the figure caption, the mass is large.", "The mass is large."),
        ("Based on the provided context,  it is benign.", "It is benign."),
        ("as described in the text, both lungs are clear.", "Both lungs are clear."),
        ("The caption states that the lesion enhances.", "The lesion enhances."),
        ("It is mentioned in the description that CT was used.", "CT was used."),
        ("As mentioned earlier, the arrow points at it.", "The arrow points at it."),
        ("“In the caption and context, it is a cyst.", "It is a cyst."),
        ("It is a CT. Based on the information provided, contrast was given.", "It is a CT. Contrast was given."),
        ("Per the legend, according to the context, it is an MRI.", "It is an MRI."),
    ],
)
def test_words_before_a_statement_are_taken_off_and_it_begins_with_a_capital(before, after):
    answers, rules = effects_of(before)
    assert (answers, rules) == ([after], [PREFIX])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("There is a mass, according to the caption.", "There is a mass."),
        ("The mass (as mentioned in the text) is large.", "The mass is large."),
        ("The findings described in the figure caption point to a tumour.", "The findings point to a tumour."),
        ("It is, as stated in the context, a benign cyst.", "It is, a benign cyst."),
        ("The arrow, as noted in the legend, points at it; it is dark as indicated by the caption.", None),
        ("As described in the caption the lung is clear.", "The lung is clear."),
        ("The mass, as mentioned in the caption, is 3 cm.", "The mass is 3 cm."),
        ("In addition, as noted in the text, the liver is large.", "In addition, the liver is large."),
    ],
)
def test_words_within_a_statement_are_taken_out_with_their_brackets_and_commas(before, after):
    after = after or "The arrow, points at it; it is dark."
    answers, rules = effects_of(before)
    assert (answers, rules) == ([after], [INNER])


@pytest.mark.parametrize(
    "answer", ["The caption shows a cyst.", "A DESCRIPTION is given.", "According to the caption", "It is captioned A."]
)
def test_an_answer_that_still_names_the_text_is_removed(answer):
    answers, rules = effects_of(answer)
    assert (answers, rules[-1]) == ([], NAMES_TEXT)


def test_a_question_about_the_text_and_a_question_asked_before_are_removed():
    pairs = [
        ("What does the caption say?", "A cyst."),
        ("Where?", "Left."),
        (" where? ", "On the left."),
        ("", "x"),
        ("", "y"),
    ]
    kept, effects = clean_pairs(pairs, OURS)
    assert kept == [("Where?", "Left."), ("", "x"), ("", "y")]
    assert [(effect.rule, effect.after) for effect in effects] == [(NAMES_TEXT, None), (REPEATED, None)]


@pytest.mark.parametrize(
    "answer",
    [
        "The study of choice is MRI, and the text book sign is absent.",
        "The authorship of this contextual clue is unclear.",
        "A mass is seen in the informational centre.",
        "There is no information loss; the report card is irrelevant.",
    ],
)
def test_plain_answers_stay_as_they_are(answer):
    assert effects_of(answer) == ([answer], [])


def test_what_was_done_is_told():
    _, (prefix, inner) = clean_pairs([("Q?", "Based on the caption, it is, as per the text, a cyst.")], OURS)
    assert (prefix.rule, prefix.before, prefix.after) == (
        PREFIX,
        "Based on the caption, it is, as per the text, a cyst.",
        "It is, as per the text, a cyst.",
    )
    assert (inner.rule, inner.before, inner.after) == (INNER, prefix.after, "It is, a cyst.")


def test_phrases_of_ones_own_take_the_place_of_ours(tmp_path):
    lists = json.loads(PHRASES.read_text())
    own = tmp_path / "own.json"
    own.write_text(json.dumps({**lists, "sources": ["the note (draft)"], "cannot_see": [], "inner": []}))
    phrases = read_phrases(own)
    assert effects_of("According to the note (draft), it is big.", phrases=phrases) == (["It is big."], [PREFIX])
    assert effects_of("I cannot see the image.", phrases=phrases) == (["I cannot see the image."], [])
    own.write_text(json.dumps({**lists, "inner": [1]}))
    with pytest.raises(UserError, match="'inner' must be a list of texts"):
        read_phrases(own)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_phrases(tmp_path / "gone.json")
