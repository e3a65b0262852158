import time

import pytest

from medcap.scoring.replies.option_reply import parse_option

OPTIONS = ["heart", "lung", "liver", "Lung nodule"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        # a letter
        ("B", 1),
        ("b.", 1),
        ("(B)", 1),
        ("**B**", 1),
        ('"B"', 1),
        ("A.", 0),
        ("$\\boxed{B}$", 1),
        # a letter with the option's text
        ("B. lung", 1),
        ("B) lung", 1),
        ("b) lung", 1),
        ("B.lung", 1),
        ("B: lung", 1),
        ("B - lung", 1),
        ("B\nlung", 1),
        ("A. lung", 0),
        # a letter in a sentence
        ("Answer: B", 1),
        ("**Answer:** B", 1),
        ("Answer:\n\nC", 2),
        ("Answer: 'B'", 1),
        ("The correct answer is B.", 1),
        ("The correct answer is (B) lung.", 1),
        ("The answer is: option c", 2),
        ("Based on the question and our answer, the correct option is: B.", 1),
        ("Option B", 1),
        ("Choice C: liver", 2),
        ("The letter is d", 3),
        ("I would go with D.", 3),
        ("I think it is B", 1),
        ("A is correct", 0),
        ("Answer: A because it is", 0),
        ("(A) is the heart, (B) the lung. The answer is (B).", 1),
        # a text
        ("lung", 1),
        ("Lung.", 1),
        ("It shows the liver.", 2),
        ("A lung nodule", 3),
        ("The answer is a lung nodule", 3),
        ("X ray of the lung", 1),
        ("lung\nnodule", 3),
        # words that begin with a letter, articles, parts of words
        ("Both lungs are seen", None),
        ("Cannot say", None),
        ("A nodule is seen", None),
        ("The answer is a nodule", None),
        ("The patient's C-arm", None),
        ("I see", None),
        # more than one
        ("B or C", None),
        ("A and B", None),
        ("A, B", None),
        ("A/B", None),
        ("(A) and (B)", None),
        ("Answer: A or B", None),
        ("heart or lung", None),
        ("A. heart\nB. lung\nC. liver", None),
        ("A. heart B. lung C. liver", None),
        # denied
        ("not B", None),
        ("The answer is not B but C", 2),
        ("Not the lung, but the liver", 2),
        ("Neither A nor B", None),
        # past the last option
        ("E", None),
        ("Answer: E", None),
        ("E. lung", None),
        ("Option Z", None),
        # nothing
        ("", None),
        ("   ", None),
        ("...", None),
        ("?", None),
        ("42", None),
    ],
)
def test_replies(reply, expected):
    assert parse_option(reply, OPTIONS) == expected


@pytest.mark.parametrize(
    ("reply", "options", "expected"),
    [
        ("Yes, there is no fracture", ["Yes", "No"], 0),
        ("No fracture", ["Yes", "No"], 1),
        ("There is no fracture", ["fracture", "no fracture"], 1),
        ("There is no fracture", ["fracture", "normal"], None),
        ("E. coli is seen", ["S. aureus", "E. coli"], 1),
        ("Hepatitis B is likely", ["Hepatitis B", "Hepatitis A"], 0),
        ("C. Vitamin C", ["Vitamin A", "Vitamin B", "Vitamin C"], 2),
        ("hepatitis B", ["x1", "x2"], None),
        ("B", ["B", "A"], 1),
        ("x", ["w", "x"], 1),
        ("12 cm", ["1 cm", "2 cm"], None),
        ("it is 2 cm", ["1 cm", "2 cm"], 1),
        ("C", ["yes", "no"], None),
        ("lung", ["lung", "Lung"], 0),
        ("İlk: lung", ["heart", "lung"], 1),
        ("B", [], None),
    ],
)
def test_replies_to_other_options(reply, options, expected):
    assert parse_option(reply, options) == expected


ORGANS = ["Heart", "Lung", "Liver", "Kidney"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("<think>Option A is plausible: a heart. But the texture is air.</think>\n\nB", 1),
        ("<think>First thought: the answer is A. No.</think>\nThe answer is B.", 1),
        ("Option A might be it, but no.</think>\n\nB", 1),
        ("<|channel|>analysis<|message|>A?<|end|><|start|>assistant<|channel|>final<|message|>B", 1),
        ('```json\n{"answer": "B"}\n```', 1),
        ("<think>A</think><answer>lung</answer>", 1),
        ("<think>The answer is A", None),
        ("A</think>", None),
    ],
)
def test_reasoning_chooses_nothing(reply, expected):
    assert parse_option(reply, ORGANS) == expected


NO_OPTION = (
    "N/A | N/A. | n/a | N / A | Not applicable (N/A) | A/P view | P/A | A&E | A & E department | A.P. view"
    " | The A.P. view | U.S.A. | B/L | D/C | C/O pain | S/P | A–P view | A+ | B·A | T2/A | Vitamin A"
    " | vitamin B12 | hepatitis B | Stanford A | It is hepatitis B. It spreads. | type A | blood group B"
    " | group B streptococcus | T2A | B-cell | B cells | C-arm | protein C | HLA B | hep. B"
    " | Category A | C spine | B lines are seen | D-dimer"
    " | A 45-year-old man | A 45 year old | 37 °C | Figure B | B超 | 做B超检查 | 维生素C | T细胞"
)


@pytest.mark.parametrize("reply", NO_OPTION.split(" | "))
def test_a_letter_of_an_abbreviation_or_a_name_is_no_option(reply):
    assert parse_option(reply, ORGANS) is None


LUNG = (
    "B because N/A | The A.P. view shows the lung | The A/P view: B | N/A for the others, the answer is B"
    " | B / Lung | B; Vitamin A is not shown | Hepatitis A? No. The answer is B | Ｂ | ｂ | Ｂ． | （B）"
    " | 「B」 | 【B】 | B。 | 答案是B | 答案：B | 选B | 应选B。 | 选项B | B是正确的 | B、肺 | Ｌｕｎｇ"
    " | 答案是Lung | Ⓑ | 🅱️ | 𝐁 | 答えはB | Bです | 정답은 B입니다 | Lungs | lungs. | The lungs"
    " | It is the lungs."
)


@pytest.mark.parametrize("reply", LUNG.split(" | "))
def test_other_spellings_of_the_second_option(reply):
    assert parse_option(reply, ORGANS) == 1


@pytest.mark.parametrize(
    ("reply", "options", "expected"),
    [
        ("xray", ["CT", "X-ray"], 1),
        ("It is an x ray of the chest", ["CT", "X-ray"], 1),
        ("Kidneys.", ORGANS, 3),
        ("lungs", ["Lung", "Lungs"], 1),
        ("LUNGS!", ["lungs", "Lungs"], 0),
        ("metastasis", ["Metastases", "Cyst"], 0),
        ("masses", ["Mass", "The mass"], None),
        ("10²", ["102", "100"], None),
        ("№", ["Yes", "No"], None),
        ("2", ["2.0", "2"], 1),
        ("B", ["+", "*"], 1),
        ("Grade Ⅱ", ["Grade I", "Grade II"], 1),
    ],
)
def test_other_spellings_of_other_options(reply, options, expected):
    assert parse_option(reply, options) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        # the line with nothing but a letter
        ("B\n\nExplanation: the heart (A) is on the left.", 1),
        ("A. Heart\nB. Lung\nC. Liver\nD. Kidney\n\nB", 1),
        ("B. Lung\nThe heart (A) and the liver (C) lie elsewhere.", 1),
        ("A\nB", None),
        # the last word
        ("The answer is A. Wait, no. The answer is B.", 1),
        ("The answer is A. Actually, B.", 1),
        ("Answer: A\nCorrection: B", 1),
        ("A. Sorry, I meant B.", 1),
        ("Answer: A. After all, the final answer is B", 1),
        ("The answer is A. Wait.", 0),
        ("The answer is B. Actually, the heart is small.", 1),
        ("It is the heart. Wait, no. It is the lung.", 1),
        ("The answer is A. The answer is B.", None),
        ("Answer: A or B. Final answer: A or B", None),
    ],
)
def test_of_several_letters_the_one_that_is_settled_on_counts(reply, expected):
    assert parse_option(reply, ORGANS) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("B", 1), ("A", None), ("D", 3), ("The answer is C", None), ("Heart", 1), ("E", None), ("", None)],
)
def test_an_empty_option_keeps_its_letter(reply, expected):
    assert parse_option(reply, ["", "Heart", "", "Lung"]) == expected


@pytest.mark.slow
def test_long_and_hostile_replies_take_no_time():
    started = time.monotonic()
    for piece in ("A ", "lung ", "not A, ", "A and ", "excluded: lung, ", "(A) ", "A is not ", "2-", "wait. ", "is "):
        parse_option(piece * 500, ORGANS)
    parse_option("not " + "lung" * 2_000, ORGANS)
    assert time.monotonic() - started < 120
