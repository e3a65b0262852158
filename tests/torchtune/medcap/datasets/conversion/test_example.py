from medcap.datasets.conversion.example import Example, SkipRecord, Tally, each


def test_records_that_become_nothing_are_counted_and_the_first_of_a_kind_is_kept():
    def convert(record):
        if record < 0:
            raise SkipRecord("negative")
        for _ in range(record):
            yield Example([("", "a")])

    tally = Tally()
    found = list(each([("row 0", 2), ("row 1", -1), ("row 2", 0), ("row 3", -5), ("row 4", 1)], convert, tally))
    assert [location for location, _ in found] == ["row 0", "row 0", "row 4"]
    assert (tally.skipped, tally.first) == ({"negative": 2}, {"negative": "row 1"})
