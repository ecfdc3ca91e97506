import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from lpd_jax.errors import InputError
from lpd_jax.generation.groups import step_of
from lpd_jax.generation.schedule import Schedule, read_orders, write_orders
from lpd_jax.models.mask import training_mask

REFERENCE = Path(os.environ.get("LPD_REFERENCE_DIR", Path(__file__).parents[1] / "reference"))
ORDERS = np.array([[4, 0, 5, 1, 2, 3], [0, 1, 2, 3, 4, 5]], np.int32)
SCHEDULE = Schedule(ORDERS, (1, 2, 3), (2, 3))


def test_conversions():
    np.testing.assert_array_equal(SCHEDULE.step_of, [0, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(
        SCHEDULE.step_map, [[[1, 2, 2], [2, 0, 1]], [[0, 1, 1], [2, 2, 2]]]
    )
    assert SCHEDULE.groups() == [[4], [0, 5], [1, 2, 3]]
    assert SCHEDULE.check() is SCHEDULE


def test_known_cells_are_step_minus_one():
    schedule = Schedule(ORDERS[:1, :4], (1, 3), (2, 3)).check()
    np.testing.assert_array_equal(schedule.step_map, [[[1, 1, -1], [-1, 0, 1]]])


def test_is_a_pytree_with_static_groups():
    doubled = jax.jit(lambda s: s.replace(orders=s.orders + 0))(SCHEDULE)
    assert doubled.group_sizes == (1, 2, 3)
    assert jax.tree.leaves(SCHEDULE)[0] is ORDERS


@pytest.mark.parametrize(
    ("orders", "sizes", "message"),
    [
        ([[0, 1, 2, 3, 4, 4]], (1, 2, 3), "Order 0 visits cell 4 2 times"),
        (
            [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 6]],
            (1, 2, 3),
            "Order 1 visits cell 6, which is not",
        ),
        ([[0, 1, 2, 3, 4, -1]], (1, 2, 3), "visits cell -1"),
        ([[0, 1, 2, 3, 4, 5]], (1, 2, 2), "sum to 5, but there are 6"),
        ([[0, 1, 2, 3, 4, 5]], (1, 0, 5), "Group 1 of 3 has size 0"),
        ([[0, 1, 2, 3, 4, 5, 6]], (1, 6), r"Orders have shape \(1, 7\)"),
    ],
)
def test_check_refuses(orders, sizes, message):
    with pytest.raises(InputError, match=message):
        Schedule(np.array(orders), sizes, (2, 3)).check()


def test_training_mask_spelled_out():
    mask = training_mask(step_of((1, 2)))
    expected = np.array(
        [  # class, context 0, 1 (the last, 1, has no place), queries 0, 1, 1
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 0, 0, 1, 0, 0],
            [1, 1, 0, 0, 1, 1],
            [1, 1, 0, 0, 1, 1],
        ],
        bool,
    )
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("case", range(3))
def test_training_mask_equals_the_official_one(case):
    if not (REFERENCE / "lpd_tiny.npz").is_file():
        pytest.skip("no lpd_tiny.npz in LPD_REFERENCE_DIR")
    lpd = np.load(REFERENCE / "lpd_tiny.npz")
    sizes = tuple(lpd[f"g{case}/group_sizes"].tolist())
    tokens = sum(sizes)
    # The official sequence leaves out the last group's context.
    kept = np.r_[0 : 1 + tokens - sizes[-1], tokens : 2 * tokens]
    mask = training_mask(step_of(sizes))[np.ix_(kept, kept)]
    np.testing.assert_array_equal(mask, lpd[f"g{case}/train_mask"])


def test_official_json_round_trip(tmp_path):
    path = tmp_path / "orders.json"
    write_orders(path, ORDERS)
    assert json.loads(path.read_text()) == ORDERS.tolist()
    np.testing.assert_array_equal(read_orders(path), ORDERS)
    assert read_orders(path).dtype == np.int32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[0, 1], [0]]", "equally long lists"),
        ("[[0, 1.5]]", "equally long lists"),
        ("[]", "equally long lists"),
        ("not json", "is not a JSON list"),
        ("[[0, 1], [1, 1]]", "Order 1 visits cell 1 2 times"),
        ("[[0, 2]]", "visits cell 2, which is not in 0..1"),
    ],
)
def test_read_refuses(tmp_path, text, message):
    path = tmp_path / "orders.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_orders(path)


def test_read_names_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"no orders file .*absent\.json"):
        read_orders(tmp_path / "absent.json")
