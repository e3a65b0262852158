import os
import signal

import numpy as np
import pytest

from medcap.datasets.inspection.processes import over_rows
from medcap.errors import UserError

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_the_order_of_the_rows(processes):
    rows = np.arange(1000)[::-1]
    found = over_rows(lambda row: row * 2, rows, processes, "doubling", lambda row: -1)
    assert list(found) == [row * 2 for row in rows.tolist()]


@pytest.mark.slow
def test_rows_that_kill_their_process_fail_alone():
    def work(row):
        if row in (0, 130, 131, 299):
            os.kill(os.getpid(), signal.SIGKILL)
        return row

    found = list(over_rows(work, np.arange(300), 2, "working", lambda row: -row - 1))
    assert found == [-row - 1 if row in (0, 130, 131, 299) else row for row in range(300)]


def test_an_error_reaches_the_caller():
    def work(row):
        raise UserError(f"row {row} was changed")

    with pytest.raises(UserError, match="row 5 was changed"):
        list(over_rows(work, np.array([5, 6]), 1, "working", lambda row: None))


def test_no_rows_are_not_results():
    assert list(over_rows(str, np.arange(0), 2, "working", str)) == []
