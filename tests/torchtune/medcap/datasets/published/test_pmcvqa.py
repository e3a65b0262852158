from medcap.datasets.published.pmcvqa import choices_of, missing_columns, right_answer

CHOICES = {"Choice A": " A: cyst ", "Choice B": "B:mass", "Choice C": "", "Choice D": "D:none"}


def answer(**fields):
    return right_answer(fields, choices_of(CHOICES))


def test_a_choice_loses_its_letter():
    assert choices_of(CHOICES) == {"A": "cyst", "B": "mass", "C": "", "D": "none"}


def test_the_right_answer_by_label_by_letter_or_by_its_words():
    assert answer(Answer="mass", Answer_label="B") == "mass"
    assert answer(Anwser=" b: ") == "mass"
    assert answer(Answer="D:none") == "none"
    assert answer(Answer="lost", Answer_label="C") == "lost"
    assert answer(Answer="C") == ""


def test_missing_columns_are_named_and_either_spelling_will_do():
    columns = ["Figure_path", "Question", "Choice A", "Choice B", "Choice C", "Choice D"]
    assert missing_columns([*columns, "Anwser"]) == missing_columns([*columns, "Answer_label"]) == []
    assert missing_columns(columns[1:]) == ["Figure_path", "Answer"]
