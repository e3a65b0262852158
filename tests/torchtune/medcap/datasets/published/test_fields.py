from medcap.datasets.published.fields import ask_for, field_text, field_words, option_texts, question_text


def test_a_field_that_is_nothing_is_not_a_word():
    assert [field_text(value) for value in (None, float("nan"), " a ", 3, "None")] == ["", "", "a", "3", "None"]
    assert option_texts(["a", "", None, "nan", "NaN", float("nan"), " ", "None", "NA"]) == ("a", "None", "NA")


def test_what_stands_for_an_image_is_not_a_word_of_a_question():
    assert question_text(" <image>\nWhere is ① it? ") == "Where is   it?"


def test_words_are_text_or_finite_numbers():
    nothing = (None, True, False, float("nan"), float("inf"), ["a"], {"a": 1})
    assert [field_words(value) for value in nothing] == [""] * 7
    assert [field_words(value) for value in ("True", "nan", 0, 2.5, " a ")] == ["True", "nan", "0", "2.5", "a"]
    assert option_texts([True, float("inf"), "a", 2]) == ("a", "2")
    assert question_text(False) == ""
    assert field_text(float("-inf")) == ""


def test_the_name_of_an_object_brings_no_second_article_into_a_question():
    names = ("liver", "the large one", "A cyst", "an organ", "thenar muscle", "{1}", "the")
    asked = [ask_for("Where is the {}?", name) for name in names]
    wanted = ("liver", "large one", "cyst", "organ", "thenar muscle", "{1}", "the")
    assert asked == [f"Where is the {name}?" for name in wanted]
    assert ask_for("Where is this finding: {}", "the large one") == "Where is this finding: the large one"
    assert ask_for("Where is it?", "liver") == "Where is it?"
