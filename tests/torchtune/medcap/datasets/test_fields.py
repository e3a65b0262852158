from medcap.datasets.fields import field_text, option_texts, question_text


def test_a_field_that_is_nothing_is_no_word():
    assert [field_text(value) for value in (None, float("nan"), " a ", 3, "None")] == ["", "", "a", "3", "None"]
    assert option_texts(["a", "", None, "nan", "NaN", float("nan"), " ", "None", "NA"]) == ("a", "None", "NA")


def test_what_stands_for_an_image_is_no_word_of_a_question():
    assert question_text(" <image>\nWhere is ① it? ") == "Where is   it?"
