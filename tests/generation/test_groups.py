import hashlib
import json

import numpy as np
import pytest

from lpd_jax.errors import InputError
from lpd_jax.generation import groups

# fmt: off
TABLE = {  # copied from orders/group_sizes_lookup.json
    (256, 8): (1, 15, 24, 32, 40, 45, 49, 50),
    (256, 12): (1, 7, 11, 15, 19, 22, 25, 28, 30, 32, 33, 33),
    (256, 16): (1, 4, 6, 8, 11, 13, 15, 17, 19, 20, 22, 23, 24, 24, 24, 25),
    (256, 20): (1, 2, 4, 5, 7, 8, 10, 11, 12, 14, 15, 16, 17, 18, 18, 19, 19, 20, 20, 20),
    (256, 24): (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11, 12, 13, 14, 14, 14, 15, 15, 16, 16, 16, 17,
                17),
    (256, 32): (1, 1, 2, 2, 3, 3, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 10, 11, 11, 11, 11, 12,
                12, 12, 12, 12, 12, 12, 12),
    (1024, 32): (1, 4, 6, 9, 11, 13, 16, 18, 20, 23, 25, 27, 29, 31, 33, 35, 36, 38, 40, 41, 42, 44,
                 45, 46, 47, 48, 48, 49, 49, 50, 50, 50),
    (1024, 48): (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
                 23, 24, 25, 26, 26, 27, 28, 28, 29, 29, 30, 30, 31, 31, 32, 32, 32, 33, 33, 33, 33,
                 33, 33, 33, 34),
}
# fmt: on
OFFICIAL_STEPS = {
    256: (8, 12, 16, 20, 24, 32, 64, 128, 256),
    1024: (32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 224, 256, 512, 1024),
}


@pytest.mark.parametrize("entry", TABLE)
def test_official_entries(entry):
    assert groups.official(*entry) == TABLE[entry]
    assert groups.group_sizes(*entry) == TABLE[entry]


def test_every_official_entry_by_checksum():
    table = [
        [n, steps, *groups.official(n, steps)]
        for n in OFFICIAL_STEPS
        for steps in OFFICIAL_STEPS[n]
    ]
    digest = hashlib.sha256(json.dumps(table).encode()).hexdigest()
    assert digest == "23f328c1909c3a954ec94c8652fefb9f3979e9688b5f7c17c0ce5ffb0315d5a2"
    assert {n: groups.official_steps(n) for n in OFFICIAL_STEPS} == OFFICIAL_STEPS


def test_cosine_equals_the_table_where_it_follows_the_formula():
    assert groups.cosine(256, 20) == TABLE[256, 20]
    assert groups.cosine(1024, 48) == TABLE[1024, 48]


@pytest.mark.parametrize("tokens", [2, 7, 16, 35, 64, 100, 256])
def test_cosine_for_any_size(tokens):
    for steps in range(2, tokens + 1):
        sizes = groups.cosine(tokens, steps)
        groups.check_group_sizes(sizes, tokens)
        assert len(sizes) == steps
        assert sizes[0] == 1
        assert list(sizes) == sorted(sizes)


def test_cosine_stays_close_to_the_formula():
    edges = 576 * np.cos(np.pi / 2 * np.arange(25) / 24)
    assert np.abs(np.array(groups.cosine(576, 24)) - (edges[:-1] - edges[1:])).max() <= 1.5


@pytest.mark.parametrize("kind", ["cosine", "uniform"])
def test_one_token_per_step_and_one_step(kind):
    assert groups.group_sizes(35, 35, kind) == (1,) * 35
    assert groups.group_sizes(256, 256, kind) == (1,) * 256
    assert groups.group_sizes(35, 1, kind) == (35,)


def test_uniform():
    assert groups.uniform(10, 4) == (2, 2, 3, 3)
    assert groups.group_sizes(256, 16, "uniform") == (16,) * 16


def test_step_of():
    np.testing.assert_array_equal(groups.step_of((1, 3, 2)), np.int32([0, 1, 1, 1, 2, 2]))
    assert groups.step_of((1, 3, 2)).dtype == np.int32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: groups.cosine(16, 17), "16 tokens cannot be generated in 17 steps"),
        (lambda: groups.uniform(16, 0), "cannot be generated in 0 steps"),
        (lambda: groups.official(256, 21), "no 21-step entry for 256 tokens"),
        (lambda: groups.official(64, 8), "256 and 1024 tokens only"),
        (lambda: groups.group_sizes(16, 4, "linear"), "not 'linear'"),
        (lambda: groups.check_group_sizes((1, 0, 3), 4), "Group 1 of 3 has size 0"),
        (lambda: groups.check_group_sizes((1, 2), 4), "sum to 3, but there are 4"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()
