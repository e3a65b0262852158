import csv
import io

import pytest

from medcap.datasets.csv_fields import allow_long_fields


def test_a_field_may_be_longer_than_the_modules_own_limit():
    before = csv.field_size_limit(131_072)
    try:
        with pytest.raises(csv.Error):
            list(csv.reader(io.StringIO("x" * 200_000)))
        allow_long_fields()
        assert list(csv.reader(io.StringIO("x" * 200_000))) == [["x" * 200_000]]
        csv.field_size_limit(1 << 30)
        allow_long_fields()
        assert csv.field_size_limit() == 1 << 30
    finally:
        csv.field_size_limit(before)
