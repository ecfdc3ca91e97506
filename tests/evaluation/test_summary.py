import math

import numpy as np
import pytest

from lpd_jax.evaluation.summary import axis, csv_table, markdown_table, mean_of, summarise

RESULTS = [
    {"name": "near", "x": 10, "score": 1.0},
    {"name": "far", "x": 10, "score": 5.0},
    {"name": "near", "x": 4, "score": 7.0},
    {"name": "near", "x": 10, "score": 2.0},
    {"name": "near", "x": 10, "score": 6.0},
]


def test_mean_and_standard_error():
    mean = mean_of([1.0, 2.0, 6.0])
    assert mean.mean == pytest.approx(3) and mean.count == 3
    # Deviations -2, -1, 3: variance 14 / 2, over three measurements.
    assert mean.error == pytest.approx(math.sqrt(7 / 3))
    assert str(mean) == "3.000 ± 1.528"
    assert math.isnan(mean_of([5.0]).error) and str(mean_of([5.0])) == "5.000"


def test_standard_error_is_the_spread_of_means():
    draws = np.random.default_rng(0).normal(size=(4000, 5))
    errors = [mean_of(row).error for row in draws]
    assert np.mean(np.square(errors)) == pytest.approx(1 / 5, rel=0.05)


def test_tables():
    rows = summarise(RESULTS, ["score"])
    assert [(row["name"], row["x"], row["score"].count) for row in rows] == [
        ("near", 10, 3),
        ("far", 10, 1),
        ("near", 4, 1),
    ]
    assert markdown_table(rows, "score", "steps").splitlines() == [
        "| score by steps | 4 | 10 |",
        "| --- | ---: | ---: |",
        "| near | 7.000 | 3.000 ± 1.528 |",
        "| far |  | 5.000 |",
    ]
    assert csv_table(rows, ["score"], "steps").splitlines() == [
        "name,steps,seeds,score,score_se",
        "near,10,3,3,1.52753",
        "far,10,1,5,",
        "near,4,1,7,",
    ]


def test_axis_sorts_numbers_only():
    assert axis([{"x": 10}, {"x": 2.5}, {"x": 10}]) == [2.5, 10]
    assert axis([{"x": "group"}, {"x": "causal"}]) == ["group", "causal"]
