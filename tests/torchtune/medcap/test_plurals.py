from medcap.plurals import counted, none_of


def test_one_is_no_plural():
    assert [counted(number, "row") for number in (0, 1, 2, 1000)] == ["0 rows", "1 row", "2 rows", "1,000 rows"]
    assert [counted(number, "reply", "replies") for number in (1, 2)] == ["1 reply", "2 replies"]
    assert [none_of(number, "row") for number in (0, 1, 2000)] == ["not one row"] * 2 + ["none of the 2,000 rows"]
