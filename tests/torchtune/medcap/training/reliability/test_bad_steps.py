import math

import pytest

from medcap.errors import UserError
from medcap.training.reliability.bad_steps import BadSteps


def test_steps_in_a_row_that_are_not_finite_end_the_run():
    steps = BadSteps(most=3)
    assert steps.add(5, ["a", "b"]) == "step 5 skipped: loss or gradient is not finite; its records: a, b"
    steps.add(6, ["c"])
    assert not steps.is_good(math.nan, 1.0) and not steps.is_good(1.0, math.inf)
    assert steps.is_good(1.0, 2.0)
    steps.add(8, ["d"])
    steps.add(9, ["d"])
    resumed = BadSteps(most=3)
    resumed.load(steps.state())
    with pytest.raises(UserError) as caught:
        resumed.add(10, list("abcdefg"))
    assert str(caught.value) == (
        "3 steps in a row had a loss or gradient that is not finite: lower optimizer.lr or set clip_grad_norm; the"
        " last: step 10, its records: a, b, c, d, e and 2 more"
    )
