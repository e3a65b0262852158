import pytest

from medcap.instruct.duplicates import NearDuplicates

LONG = "one two three four five six seven eight nine ten eleven twelve"


def test_the_similarity_is_the_share_of_word_triples_that_both_have():
    seen = NearDuplicates(0.5)
    assert seen.add("a", LONG) is None
    # 10 triples, of which the last one differs: 9 of 11.
    name, similarity = seen.add("b", LONG.replace("twelve", "dozen").title() + "!")
    assert (name, similarity) == ("a", pytest.approx(9 / 11))
    assert NearDuplicates(0.82).add("a", LONG) is None


@pytest.mark.parametrize(("similarity", "found"), [(0.8, True), (0.82, False), (1.0, False)])
def test_the_threshold_decides(similarity, found):
    seen = NearDuplicates(similarity)
    seen.add("a", LONG)
    assert (seen.add("b", LONG.replace("twelve", "dozen")) is not None) is found
    assert seen.add("c", LONG.upper()) == ("a", 1.0)


def test_short_and_empty_texts_are_compared_too():
    seen = NearDuplicates(0.8)
    assert [seen.add(name, text) for name, text in (("a", "left lung"), ("b", "left"), ("c", ""))] == [None, None, None]
    assert seen.add("d", "Left lung.") == ("a", 1.0)
    assert seen.add("e", "?!") == ("c", 1.0)


def test_copies_with_a_few_changes_are_found_among_many_texts():
    seen = NearDuplicates(0.8)
    for number in range(300):
        seen.add(str(number), " ".join(f"w{(number * 7919 + place * place) % 5003}" for place in range(40)))
    words = " ".join(f"w{(123 * 7919 + place * place) % 5003}" for place in range(40)).split()
    words[20] = "other"  # 3 of 38 triples change: 35 of 41
    assert seen.add("copy", " ".join(words)) == ("123", pytest.approx(35 / 41))
