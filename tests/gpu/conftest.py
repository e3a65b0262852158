import os

import pytest
import torch


@pytest.fixture(scope="session")
def device():
    # So that the tests themselves are tried where there is none.
    if os.environ.get("MEDCAP_TEST_DEVICE") == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def exact_products():
    """Multiply float32 as float32: TF32 would differ in the fourth digit."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)
    torch._dynamo.reset()
