"""Loss curves of fixed runs: a change of arithmetic, of data order or of the optimizer shows here first."""

import pytest

from helpers.workspace import log

STEPS = 24
# fmt: off
CURVES = {
    "packed": [
        7.07578, 6.91697, 6.57264, 6.27532, 6.41791, 6.04987, 6.04215, 6.05052,
        5.95243, 5.91598, 6.16743, 5.84299, 5.77157, 6.14910, 5.72790, 5.71593,
        6.05681, 5.69061, 5.62155, 5.60099, 5.58627, 5.60451, 5.55708, 5.95357,
    ],
    "accumulated": [
        6.72864, 7.03701, 6.52389, 6.36939, 6.05761, 5.66308, 6.00661, 6.02655,
        7.33180, 5.93943, 6.19395, 5.38980, 5.74918, 6.08652, 5.72769, 5.84979,
        6.07815, 5.21637, 6.00223, 5.56027, 5.82977, 6.06874, 5.77275, 5.25896,
    ],
}
# fmt: on
OVERRIDES = {
    "packed": ["dataset.packed=True", "dataset.max_seq_len=64", "batch_size=1", "epochs=8"],
    "accumulated": ["dataset.packed=False", "gradient_accumulation_steps=3", "epochs=8"],
}


@pytest.mark.parametrize("kind", CURVES)
def test_losses_are_those_of_earlier_versions(workspace, kind):
    run = workspace.train("dtype=fp32", "seed=7", "optimizer.lr=3e-3", *OVERRIDES[kind])
    losses = [row["loss"] for row in log(run)][:STEPS]
    # Other processors differ in the seventh digit.
    assert losses == pytest.approx(CURVES[kind], rel=1e-4)
