"""Numbers from a command line or a notebook: what they claim to be, or one sentence."""

import numpy as np
import pytest

from lpd_jax import checks
from lpd_jax.errors import InputError


@pytest.mark.parametrize("value", [2, 2.5, np.float32(2.5), np.array(2), 1e-3])
def test_numbers_pass(value):
    assert checks.number("guidance", value) == value


@pytest.mark.parametrize("value", [None, "3", True, np.nan, np.inf, -np.inf, [1.0], 1j])
def test_what_is_no_number_is_named(value):
    with pytest.raises(InputError, match=r"guidance=.* must be a number"):
        checks.number("guidance", value)


@pytest.mark.parametrize("value", [2.5, 3.0, True, "3", None, [3], np.float64(3), 0])
def test_what_is_no_step_count_is_named(value):
    with pytest.raises(InputError, match=r"steps=.* must be a whole number of at least 1\."):
        checks.whole("steps", value, 1)


@pytest.mark.parametrize("value", [-1, 2**32, 2**40, 2**64, 1.0])
def test_seeds_that_would_be_another_are_refused(value):
    with pytest.raises(InputError, match="from 0 to 4294967295"):
        checks.seed(value)


def test_the_last_seed_is_one():
    assert checks.seed(np.uint32(2**32 - 1)) == 2**32 - 1
