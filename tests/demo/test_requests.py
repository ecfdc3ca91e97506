"""What a click may ask for, and the shapes that it is rounded up to."""

import re

import pytest

from lpd_jax.demo import requests
from lpd_jax.errors import InputError

GOOD = {
    "classes": [1, 3],
    "count": 3,
    "steps": 4,
    "guidance": 2.0,
    "temperature": 1,
    "order": "halton",
    "proximity": 1.0,
    "repulsion": 2,
    "seed": 7.0,
}


def ask(studio, **changes):
    return requests.request(studio.sampler, studio.most, **(GOOD | changes))


def test_classes_come_in_turns(studio):
    asked = ask(studio, count=5)
    assert asked.labels == [1, 3, 1, 3, 1] and asked.seed == 7


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classes": []}, "1 to 16 classes"),
        ({"classes": None}, "label=None"),
        ({"classes": [6]}, "out of range"),
        ({"classes": ["aunt"]}, "did you mean 'ant'"),
        ({"count": 7}, "from 1 to 6"),
        ({"count": 2.5}, "from 1 to 6"),
        ({"steps": 3}, "one of 1, 2, 4"),
        ({"steps": None}, "steps=None"),
        ({"guidance": 11}, "from 0.0 to 10.0"),
        ({"guidance": float("nan")}, "guidance=nan"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"order": "spiral"}, "must be one of locality"),
        ({"order": ["raster"]}, "must be one of locality"),
        ({"repulsion": -1}, "from 0.0 to 8.0"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": None}, "seed=None"),
    ],
    ids=str,
)
def test_what_the_page_does_not_offer_is_refused(studio, changes, says):
    with pytest.raises(InputError, match=re.escape(says)):
        ask(studio, **changes)


def test_few_shapes_serve_all_counts():
    images = {count: requests.image_bucket(count, 12) for count in range(1, 13)}
    assert all(images[count] >= count for count in images)
    assert set(images.values()) == {1, 2, 4, 8, 12}
    for tokens in (16, 24, 64, 256):
        cells = {count: requests.cell_bucket(count, tokens) for count in range(1, tokens + 1)}
        assert all(count <= cells[count] <= tokens for count in cells)
        assert len(set(cells.values())) == 9
        assert all(cells[bucket] == bucket for bucket in cells.values())
