import pytest

from medcap.data.mask_names import mask_names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("liver <SEG>, the left kidney is not visible", ["liver", "left kidney"]),
        ("There are two: a ring <SEG> and the disc <SEG>.", ["ring", "disc"]),
        ("The ring is <SEG>.\nTumour: <SEG>", ["ring", "Tumour"]),
        ("<SEG> and <SEG>", ["", ""]),
        ("\ufffd<SEG>", [""]),
        ("Sure, it is <SEG>.", [""]),
        ("It shows a large tumour in the left lobe <SEG>", [""]),
        ("No words name it", ["", ""]),
        ("", []),
    ],
)
def test_the_words_before_a_mask_name_it(text, names):
    assert mask_names(text, len(names)) == names
