import pytest

from medcap.scoring.replies.denial import Denial, denial
from medcap.scoring.replies.option_reply import parse_option

ORGANS = ["Heart", "Lung", "Liver", "Kidney"]
LESION = ["Malignant", "Benign"]
CHEST = ["Pneumonia", "Normal"]


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        ("It is not the lung.", "lung", Denial.TRUTH),
        ("The lung is ruled out.", "lung", Denial.TRUTH),
        ("It does not show the lung.", "lung", Denial.PRESENCE),
        ("The lung is absent.", "lung", Denial.PRESENCE),
        ("There is no lung nodule.", "lung", Denial.PRESENCE),
        ("There is no doubt that it is the lung.", "lung", Denial.NONE),
        ("The lung cannot be excluded.", "lung", Denial.NONE),
        ("Lung. No nodule.", "lung", Denial.NONE),
        ("A knot in the lung", "lung", Denial.NONE),
        ("no" + " word" * 60 + " lung", "lung", Denial.NONE),
    ],
)
def test_how_a_word_is_denied(text, word, expected):
    start = text.lower().index(word)
    assert denial(text, start, start + len(word)) is expected


# Replies of one kind, divided by bars.
DENIED = {
    "by a prefix": (
        LESION,
        "It is non-malignant. | non malignant | A nonmalignant lesion",
    ),
    "by a word before": (
        CHEST,
        "No pneumonia | not pneumonia | It isn't pneumonia | It isn’t pneumonia | without pneumonia"
        " | lacks pneumonia | Negative for pneumonia. | Absence of pneumonia | free of pneumonia"
        " | clear of pneumonia | devoid of pneumonia | unlikely to be pneumonia | ruled out pneumonia"
        " | rules out pneumonia | excludes pneumonia | denies pneumonia | never pneumonia | hardly pneumonia"
        " | other than pneumonia | rather than pneumonia | instead of pneumonia | anything but pneumonia"
        " | far from pneumonia | argues against pneumonia | inconsistent with pneumonia | less likely pneumonia"
        " | apart from pneumonia | unlike pneumonia | I reject pneumonia | It is wrong to say pneumonia",
    ),
    "by a phrase before": (
        CHEST,
        "There is no sign of pneumonia | no evidence of pneumonia | no radiographic evidence of pneumonia"
        " | No signs of acute pneumonia | no findings suggestive of pneumonia | not consistent with pneumonia"
        " | It cannot be pneumonia | It can't be pneumonia | fails to show pneumonia"
        " | does not demonstrate pneumonia | I don't think it is pneumonia | I would not call it pneumonia"
        " | not suggestive of any pneumonia | no longer pneumonia",
    ),
    "in a list": (
        ORGANS,
        "neither the heart nor the lung | not the heart or the lung | not heart, lung, or liver | all except lung"
        " | Neither A nor B | A and B are wrong | A, B and C are incorrect | both A and B can be ruled out"
        " | none of A, B or C | Excluded: A, B | Incorrect options: A and C | the lung and the liver are not seen"
        " | We can exclude A and C | Not A, B, or C",
    ),
    "by what is behind the word": (
        ORGANS,
        "The lung is absent | The lung is not seen | lung isn't shown | the lung is missing | lung: no"
        " | Lung? No. | Lung (no) | lung not identified | the lung was not found | Lung - incorrect"
        " | lung excluded | The lung has been ruled out | the lung is unlikely | The lung cannot be seen"
        " | the lung is not in the image | the lung would be wrong | Lung ❌ | The lung does not fit | Lung, no."
        " | The lung is not the answer | lung is out of the question",
    ),
    "by what is behind the letter": (
        ORGANS,
        "A is not correct | A is ruled out | A isn't right | A: no | A - incorrect | (A) is wrong"
        " | A does not fit | A can be excluded | Option A is clearly wrong | A would be wrong"
        " | A is definitely not the correct answer | A is less likely | A cannot be correct | A (heart) is wrong"
        " | A. heart is incorrect | A, which is incorrect | A is not it | A seems to be wrong | A is false",
    ),
    "by what is before the letter": (
        ORGANS,
        "The answer is not A | The answer isn't A | not option A | It can't be A | Choose anything but A"
        " | I would not choose A | No, not A | I can exclude A | Everything but A | The answer cannot be (A)",
    ),
    "by a verb": (
        ORGANS,
        "The image does not show the lung. | the scan lacks a lung | does not arise from the liver"
        " | it is not in the lung | there isn't any lung | not seen: the lung"
        " | The lesion doesn't involve the left lung",
    ),
    "where it is a part of a name": (
        ["Small cell carcinoma", "Adenocarcinoma"],
        "It is non-small cell carcinoma | non small cell carcinoma",
    ),
    "by less common words": (
        CHEST,
        "Pneumonia is doubtful | there is nothing to suggest pneumonia | no suspicion of pneumonia"
        " | there is insufficient evidence of pneumonia | This contradicts pneumonia | evidence against pneumonia"
        " | Pneumonia? Not here. | pneumonia is nowhere to be seen | Not: A | A is unsupported | pneumonia-free"
        " | evidence of pneumonia is lacking | It is by no means pneumonia | not at all pneumonia | Pneumonia = no"
        " | pneumonia - not present | A isn't | A = wrong | I would rule out A | Eliminate A | no trace of pneumonia",
    ),
    "among yes and no": (
        ["Yes", "No"],
        "not yes | I would not say yes | The answer isn't yes | Yes is wrong | No doubt | no idea",
    ),
    "after it was named": (
        ORGANS,
        "The answer is A. But A is wrong. | It could be the lung, but the lung is ruled out.",
    ),
    "of two with one denied": (
        ["Fracture", "No fracture"],
        "Absence of fracture | There is no evidence of fracture",
    ),
}


@pytest.mark.parametrize(
    ("options", "reply"), [(options, reply) for options, replies in DENIED.values() for reply in replies.split(" | ")]
)
def test_what_is_denied_is_not_chosen(options, reply):
    assert parse_option(reply, options) is None


@pytest.mark.parametrize(
    ("options", "expected", "replies"),
    [
        # a denial of the others
        (
            ORGANS,
            1,
            "not A but B | A: no; B: yes | A is not correct; the answer is B | B, not A | B (not A) | B rather than A",
        ),
        (
            ORGANS,
            1,
            "The heart is not shown; it is the lung | lung, without heart | A is wrong. C is wrong. B is right."
            " | No. B",
        ),
        (
            ORGANS,
            1,
            "A, C and D can be excluded, so B | rather B than A | B. The heart is not visible."
            " | B is more likely than A",
        ),
        (
            ORGANS,
            1,
            "A is less likely than B | A is not as likely as B | A is right? No, B"
            " | A ❌ B ✅ | 不是A，是B | A错误，B正确",
        ),
        (
            CHEST,
            0,
            "not normal but pneumonia | pneumonia rather than normal | No effusion, but pneumonia"
            " | Pneumonia without effusion",
        ),
        # a denial of a denial, and what only looks like one
        (
            CHEST,
            0,
            "Pneumonia cannot be excluded | pneumonia is not ruled out | cannot rule out pneumonia"
            " | can't exclude pneumonia",
        ),
        (
            CHEST,
            0,
            "no doubt that it is pneumonia | There is no question that it is pneumonia | without doubt pneumonia",
        ),
        (
            CHEST,
            0,
            "not only pneumonia but severe | nothing but pneumonia | none other than pneumonia"
            " | pneumonia is not unlikely",
        ),
        (
            CHEST,
            0,
            "No, it is pneumonia | No, pneumonia | I am not sure, but pneumonia | Not sure. Pneumonia."
            " | Pneumonia, no doubt.",
        ),
        (
            CHEST,
            0,
            "not without pneumonia | It can't be anything other than pneumonia | hard to rule out pneumonia"
            " | It would be wrong to exclude pneumonia | A is not wrong | no other diagnosis than pneumonia"
            " | pneumonia should not be dismissed | Not sure: pneumonia",
        ),
        (
            CHEST,
            0,
            "not normal, pneumonia | Instead of B, A | Excluding B, the answer is A | B? No, A. | A, but not B"
            " | it is unlikely to be normal, pneumonia is likely | The lungs are not clear: pneumonia",
        ),
        # another word of the sentence is denied
        (
            ORGANS,
            1,
            "There is no abnormality in the lung | no change in the lung | The lung is not enlarged"
            " | the lung is not normal",
        ),
        (
            ORGANS,
            1,
            "Lung. There is no lung nodule. | The lung does not show a nodule | No fracture of the lung",
        ),
        # options that hold a denial
        (
            ["Fracture", "No fracture"],
            1,
            "No fracture | There is no fracture. | no fracture is seen",
        ),
        (
            ["With contrast", "Without contrast"],
            1,
            "Without contrast | CT without contrast | It was taken without contrast.",
        ),
        (
            ["Small cell", "Non-small cell"],
            1,
            "It is non-small cell | non small cell | NON-SMALL CELL.",
        ),
        (
            ["Present", "Absent"],
            1,
            "Absent | The nodule is absent | It is absent.",
        ),
        (
            ["Positive", "Negative"],
            1,
            "Negative for COVID | The test is negative.",
        ),
        (
            ["Yes", "No"],
            1,
            "No, it is not | There is no fracture | The answer is no.",
        ),
        (
            ["Yes", "No"],
            0,
            "Yes, there is no fracture | No doubt, yes | Yes, no doubt.",
        ),
    ],
)
def test_what_is_not_denied_is_chosen(options, expected, replies):
    wrong = [reply for reply in replies.split(" | ") if parse_option(reply, options) != expected]
    assert wrong == []
