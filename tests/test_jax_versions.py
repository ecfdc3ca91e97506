"""Computations that XLA's CPU backend got wrong in versions of jax that we support or refuse.

Each is compared with NumPy in float64; docs/versions.md says which version fails which. All but the
loop pass because of the flag that `import lpd_jax` sets.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lpd_jax
from lpd_jax import xla
from lpd_jax.models.quantizer import VectorQuantizer

ROWS = 32_769  # from here on a reduction is cut in tiles


def close(got, wanted, tolerance=1e-5):
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


def test_products_of_many_rows_summed():
    """jax-ml/jax#39103: 0.10.2 takes the last row for an earlier one."""
    x = np.zeros((ROWS, 3), np.float32)
    x[:, 0] = np.arange(ROWS)
    got = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(x)
    close(got, (x.astype(np.float64) ** 2).sum(axis=1))


@pytest.mark.parametrize("form", ["product", "einsum"])
def test_a_product_with_a_constant_summed(form):
    """0.10.2 to 0.12.0: infinities and NaN. The gradient of sum(f(x)) holds such products."""
    matrices = np.random.default_rng(0).normal(size=(5, 60, 60)).astype(np.float32)
    matrices = matrices @ matrices.transpose(0, 2, 1)

    def run(x, c):
        if form == "einsum":
            return jnp.einsum("bij,bjk,bik->bi", x, jnp.full_like(x, c), x)
        return jnp.sum((x @ jnp.full_like(x, c)) * x, axis=-1)

    exact = matrices.astype(np.float64)
    close(jax.jit(run)(matrices, 0.375), (exact.sum(-1, keepdims=True) * 0.375 * exact).sum(-1))


@pytest.mark.parametrize(
    ("shapes", "axis"),
    [
        (((3, 1, 2, 2, 8, 8, 8),) * 2, 3),
        (((10, 4, 6, 1, 1, 1, 1, 1), (10, 4, 6, 3, 3, 3, 3, 3)), 2),
    ],
)
def test_a_reduction_of_many_axes(shapes, axis):
    """jax-ml/jax#40412, #39257: 0.10.2 and 0.11.0 crash, so the program is looked at first."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    compiled = jax.jit(lambda a, b: jnp.sum(a * b, axis=axis)).lower(a, b).compile()
    assert "__ynn_fusion" not in compiled.as_text()
    close(compiled(a, b), (a.astype(np.float64) * b).sum(axis))


def test_a_loop_updates_its_buffer_in_place():
    """jax-ml/jax#40101: 0.11.1 copies all of it each time, 24 s where others take 0.03 s."""

    def put(i, x):
        return jax.lax.dynamic_update_slice(x, (x[i] + 1)[None], (i + 1,))

    run = jax.jit(lambda x: jax.lax.fori_loop(0, 400, put, x))
    zeros = jnp.zeros(1 << 22)
    run(zeros).block_until_ready()
    start = time.process_time()
    assert run(zeros)[400] == 400
    assert time.process_time() - start < 1.0


def test_the_quantiser_of_many_rows():
    """Codes, losses and gradient of more rows than a tile, compiled and not."""
    rng, width, codes = np.random.default_rng(0), 8, 32
    latents = jnp.asarray(rng.normal(size=(1, 1, ROWS, width)), jnp.float32)
    network = VectorQuantizer(codes, width)
    params = {"params": {"embedding": jnp.asarray(rng.normal(size=(codes, width)), jnp.float32)}}

    def run(x):
        q = network.apply(params, x)
        return q.vq + q.commitment + q.entropy, q.codes

    run = jax.value_and_grad(run, has_aux=True)
    (loss, found), gradient = jax.jit(run)(latents)
    (wanted_loss, wanted), wanted_gradient = run(latents)
    assert (np.asarray(found) != np.asarray(wanted)).mean() < 1e-4  # equal distances to rounding
    close(loss, wanted_loss)
    moved = np.asarray(found == wanted)[..., None]
    close(gradient * moved, wanted_gradient * moved, 1e-4)


def test_the_flag_is_set_before_jax_starts_and_the_users_own_is_left():
    for before, after in (
        ({}, "--xla_cpu_experimental_ynn_fusion_type=-reduce"),
        ({"XLA_FLAGS": "--a=1"}, "--a=1 --xla_cpu_experimental_ynn_fusion_type=-reduce"),
        ({"XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type=dot"}, None),
    ):
        environment = dict(before)
        xla.keep_reductions_right(environment)
        assert environment["XLA_FLAGS"] == (after or before["XLA_FLAGS"])
    assert lpd_jax.InputError
