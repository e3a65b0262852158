import pytest

from medcap.errors import UserError
from medcap.generation.request import Sampling


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, r"top_p=0\.0"),
        ({"top_p": 1.5}, r"top_p=1\.5"),
    ],
)
def test_impossible_sampling_names_the_key(values, key):
    with pytest.raises(UserError, match=key):
        Sampling(**values)


def test_limits_of_the_ranges_are_allowed():
    sampling = Sampling(max_new_tokens=1, temperature=0, top_k=1, top_p=1.0)
    assert sampling.temperature == 0
