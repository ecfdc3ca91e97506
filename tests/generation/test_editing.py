"""Masks become cells, cells become schedules, and known codes stay what they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax.errors import InputError
from lpd_jax.generation import editing, orders
from lpd_jax.generation.plan import make_plan
from lpd_jax.generation.sampling import sampling_rule

GRID, SIZE = (4, 6), (16, 24)


def test_a_box_is_in_shares_or_in_pixels():
    shares = editing.rectangle((8, 12), (0.25, 0, 1, 0.5))
    assert shares.shape == (8, 12) and shares.sum() == 6 * 6
    assert shares[2:, :6].all()
    np.testing.assert_array_equal(shares, editing.rectangle((8, 12), (2, 0, 8, 6)))
    assert editing.rectangle((8, 12), (0, 0, 1, 1)).all()


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((0.5, 0, 0.5, 1), "empty"),
        ((0, 0, 9, 12), "leaves the image of 8x12"),
        ((-0.5, 0, 1, 1), "leaves"),
        ((0, 0, 1), "four numbers"),
        ((0, 0, 2.5, 4), "whole pixels"),
    ],
    ids=str,
)
def test_an_impossible_box_is_refused(box, says):
    with pytest.raises(InputError, match=says):
        editing.rectangle((8, 12), box)


def test_one_pixel_is_enough_for_its_cell():
    mask = np.zeros(SIZE, bool)
    mask[5, 11] = mask[4, 8] = mask[15, 23] = True
    cells = editing.unknown_cells(mask, 2, GRID, SIZE)
    assert cells.shape == (2, 24)
    assert np.flatnonzero(cells[0]).tolist() == [1 * 6 + 2, 3 * 6 + 5]
    np.testing.assert_array_equal(cells[0], cells[1])


def test_masks_come_in_cells_too_and_one_per_image():
    cells = np.random.default_rng(0).random((3, *GRID)) < 0.5
    flat = editing.unknown_cells(cells, 3, GRID, SIZE)
    np.testing.assert_array_equal(flat, cells.reshape(3, -1))
    pixels = cells.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)
    np.testing.assert_array_equal(editing.unknown_cells(pixels, 3, GRID, SIZE), flat)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (np.zeros((6, 4), bool), r"\[16, 24\] in pixels or \[4, 6\] in cells"),
        (np.zeros((2, 4, 6), bool), "2 masks were given for 3 images"),
        (np.zeros(24, bool), "shape"),
        (np.full(SIZE, 255), "mask > 127"),
    ],
    ids=["shape", "count", "flat", "values"],
)
def test_a_mask_that_does_not_fit_is_refused(mask, says):
    with pytest.raises(InputError, match=says):
        editing.unknown_cells(mask, 3, GRID, SIZE)


def test_a_part_gets_its_share_of_the_steps():
    assert editing.group_sizes(24, 24, 6, "uniform") == (4,) * 6
    for count in range(1, 25):
        sizes = editing.group_sizes(count, 24, 6, "cosine")
        assert sum(sizes) == count and min(sizes) >= 1
        assert len(sizes) == np.ceil(count / 4)
    assert editing.group_sizes(7, 24, 24, "cosine") == (1,) * 7
    assert editing.group_sizes(0, 24, 6, "cosine") == ()
    with pytest.raises(InputError, match="25 steps"):
        editing.group_sizes(3, 24, 25, "cosine")


def test_images_are_grouped_by_how_much_is_unknown():
    unknown = np.arange(5) < np.array([2, 0, 2, 5])[:, None]
    groups = {count: rows.tolist() for count, rows in editing.by_count(unknown)}
    assert groups == {0: [1], 2: [0, 2], 5: [3]}


@pytest.fixture(scope="module")
def unknown():
    """Nine cells of each of three images, not the same ones."""
    shuffled = [np.random.default_rng(i).permutation(24) for i in range(3)]
    return jnp.asarray(np.stack(shuffled) < 9)


@pytest.mark.parametrize("order", [orders.LocalityAware(), orders.Raster(), None], ids=str)
def test_orders_visit_the_unknown_cells_only(unknown, order):
    keys = jax.random.split(jax.random.key(0), 3)
    whole = jnp.stack([jax.random.permutation(key, 24) for key in keys])
    found = editing.orders_of_unknown(
        whole if order is None else order, keys, unknown, GRID, (2, 3, 4)
    )
    for i in range(3):
        assert sorted(found[i].tolist()) == np.flatnonzero(unknown[i]).tolist()
        if order is None:  # the given order, without what is known
            assert found[i].tolist() == [cell for cell in whole[i].tolist() if unknown[i, cell]]


def test_known_codes_stay_and_matter(decoder, decoder_params, batch, unknown):
    codes, labels, _ = batch
    keys = jax.random.split(jax.random.key(5), 3)
    sizes = (2, 3, 4)
    plan, rule = make_plan(sizes, num_known=15), sampling_rule(guidance=2.0, top_k=1)
    order = editing.orders_of_unknown(orders.Raster(), keys, unknown, GRID, sizes)
    regenerate = jax.jit(editing.regenerate, static_argnums=(0, 7))

    def run(codes):
        return regenerate(decoder, decoder_params, codes, unknown, labels, order, keys, plan, rule)

    edited = run(codes)
    np.testing.assert_array_equal(np.where(unknown, -1, edited), np.where(unknown, -1, codes))
    # What the unknown cells held before does not reach the network; what the known hold does.
    np.testing.assert_array_equal(run(jnp.where(unknown, 0, codes)), edited)
    other = run(jnp.where(unknown, codes, (codes + 1) % 32))
    assert (np.asarray(other != edited) & unknown).any()
