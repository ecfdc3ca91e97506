"""Which batch to compile next, and what the table says of those that were."""

from launch import aot_table
from lpd_jax.compiled import batches

GIB = 2**30


SLICE = "v5e:16x16"  # 256 chips of 16 GiB, of which a promise takes 12.8


def row(batch, fits=True, peak=6, temporary=4, topology=SLICE, **fields):
    sizes = {"peak": peak * GIB, "temporary": temporary * GIB, "limit": 16 * GIB}
    return {"batch": batch, "fits": fits, "topology": topology, **sizes, **fields}


def following(rows, published=1024, topology=SLICE, kin=()):
    return batches.next_batch(rows, published, topology, kin)


def test_the_published_batch_comes_first_and_every_chip_gets_an_image():
    assert following([]) == 1024
    assert following([], 64) == 256


def test_what_fits_leads_to_the_largest_batch_that_its_memory_promises():
    # 4 images a chip take 4 GiB of temporaries and leave 4.8 of 12.8: 8.8 would fit.
    assert following([row(1024, peak=8)]) == 2048
    assert following([row(1024)]) == 2048
    assert following([row(1024, peak=3, temporary=2)]) == 4096


def test_other_slices_promise_too_but_no_less_than_the_published_batch():
    # 23.6 images for each of 64 chips, of 32 GiB.
    assert following([], 256, "v4:4x4x4", [row(1024)]) == 1024
    assert following([], 2048, "v4:4x4x4", [row(1024)]) == 2048
    assert following([], 256, "v4:4x4x4", [row(1024, fits=False)]) == 256
    assert following([row(512, topology="v4:4x4x4", peak=20)], 256, "v4:4x4x4", [row(1024)]) == 1024


def test_a_broken_promise_leads_to_half_of_it_and_then_to_the_end():
    rows = [row(1024, peak=2, temporary=1), row(8192, fits=False)]
    assert following(rows) == 4096
    rows = [row(1024), row(2048, fits=False)]
    assert following(rows) is None


def test_what_does_not_fit_is_halved_down_to_one_image_a_chip():
    assert following([row(1024, fits=False)]) == 512
    assert following([row(256, fits=False)]) is None
    assert following([row(1024, fits=False), row(512, peak=12)]) is None


def test_the_table_shows_the_largest_batch_and_marks_the_published_one():
    cost = {"flops": 2e12, "collective_bytes": {"all-reduce": 1e9, "reduce-scatter": 5e8}}
    about = {"model": "XXL 256", "cost": cost}
    rows = [row(1024, **about), row(2048, peak=9, **about), row(4096, fits=False, **about)]
    rows.append(row(1024, fits=False, model="L 512", topology="v4:4x4x4", cost=None))
    head, _, unfit, fit = aot_table.table([rows[3], *rows[:3]]).splitlines()[:2] + sorted(
        aot_table.table(rows).splitlines()[2:]
    )
    assert head.count("|") == fit.count("|") == unfit.count("|")
    assert unfit.startswith("| L, 512 | v4:4x4x4 | none | 512 does not fit |")
    assert fit.startswith("| XXL, 256 | v5e:16x16 | 2048 | 1024 fits | 9.0 of 16 | 2.0 |")
    assert fit.endswith("| 0.00 GB | 1.50 GB | 0.00 GB |")
    assert "| ≥ 1024 | 1024 fits |" in aot_table.table(rows[:1])
