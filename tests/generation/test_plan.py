"""Plans cover every step once, and waste as little padding as any cut can."""

import itertools

import pytest

from lpd_jax.errors import InputError
from lpd_jax.generation import groups
from lpd_jax.generation.plan import make_plan


@pytest.mark.parametrize("sizes", [(1, 2, 3, 4, 6), (1, 15), (16,), (5, 1, 7, 2, 1), (1,) * 16])
@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_segments_cover_the_steps_with_room_for_each(sizes, count):
    plan = make_plan(sizes, count, num_known=3)
    steps = [s for segment in plan.segments for s in range(segment.first, segment.last)]
    assert steps == list(range(1, len(sizes)))
    assert len(plan.segments) <= count
    for segment in plan.segments:
        for step in range(segment.first, segment.last):
            assert sizes[step] <= segment.query_width
            assert sizes[step - 1] <= segment.context_width
            cached = 1 + 3 + sum(sizes[: step - 1])
            assert cached + segment.context_width <= segment.room
        last = 1 + 3 + sum(sizes[: segment.last - 2])
        assert segment.room == last + segment.context_width
    assert plan.num_generated == sum(sizes)


@pytest.mark.parametrize("sizes", [(1, 2, 3, 4, 6, 9), (3, 1, 7, 2, 1, 8, 8)])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_no_other_cut_wastes_less(sizes, count):
    def work(cuts):
        return sum(
            (b - a) * (max(sizes[a - 1 : b - 1]) + max(sizes[a:b]))
            for a, b in itertools.pairwise(cuts)
        )

    inner = range(2, len(sizes))
    best = min(
        work((1, *cuts, len(sizes)))
        for k in range(count)
        for cuts in itertools.combinations(inner, k)
    )
    plan = make_plan(sizes, count)
    ours = sum((s.last - s.first) * (s.context_width + s.query_width) for s in plan.segments)
    assert ours == best


def test_as_many_segments_as_steps_waste_nothing():
    sizes = groups.group_sizes(256, 20)
    assert make_plan(sizes, 19).padded_work == 1
    waste = [make_plan(sizes, k).padded_work for k in (1, 2, 3, 4, 8)]
    assert waste == sorted(waste, reverse=True)


def test_segments_that_save_nothing_are_not_made():
    assert len(make_plan((1,) * 64, 8).segments) == 1
    assert len(make_plan((1, *(4,) * 10), 8).segments) == 2


@pytest.mark.parametrize("bad", [((), 1), ((1, 0, 3), 1), ((1, 2), 0)])
def test_impossible_plans_are_refused(bad):
    with pytest.raises(InputError):
        make_plan(*bad)
