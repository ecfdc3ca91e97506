"""FLOPs, collectives and host transfers, read from compiled programs and from TPU HLO."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from lpd_jax import parallel
from lpd_jax.compiled import hlo
from lpd_jax.parallel import MeshConfig


def cost_of(function, *args):
    return hlo.cost(jax.jit(function).lower(*args).compile().as_text())


def test_products_in_a_scan_count_once_for_each_trip():
    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    cost = cost_of(layers, jnp.ones((8, 64)), jnp.ones((5, 64, 64)))
    assert cost.flops == 5 * 2 * 8 * 64 * 64
    assert cost.open_loops == ()


def test_a_loop_of_unknown_length_is_named():
    def run(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 100, lambda x: x @ x, x)

    cost = cost_of(run, jnp.ones((4, 4)))
    assert len(cost.open_loops) == 1
    assert cost.flops == 2 * 4 * 4 * 4


def test_collectives_in_a_scan_count_once_for_each_trip():
    mesh = parallel.make_mesh(MeshConfig())

    def total(x):
        def body(carry, _):
            return jnp.tanh(jax.lax.psum(carry, "data")), None

        return jax.lax.scan(body, x, length=5)[0]

    run = jax.shard_map(total, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
    assert cost_of(run, jnp.ones((64, 16))).collective_bytes == {"all-reduce": 5 * 8 * 16 * 4}


def test_callbacks_are_host_transfers_and_plain_programs_have_none():
    def asks(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x) + 1

    assert cost_of(asks, jnp.ones(4)).host_transfers
    assert cost_of(lambda x: jnp.sin(x) + 1, jnp.ones(4)).host_transfers == ()


def program(*lines, computations=""):
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule m\n\n{computations}ENTRY %main (p: f32[2]) -> f32[2] {{\n{body}\n}}\n"


def test_expected_cycles_count_once_for_each_trip_where_they_are_known():
    def fusion(name, cycles):
        config = f'backend_config={{"estimated_cycles":"{cycles}"}}'
        return f"%{name} = f32[2]{{0}} fusion(%x.{name}), kind=kLoop, calls=%square, {config}"

    unknown = 2**63 - 1
    text = program(
        "%x.last = f32[2]{0} parameter(0)",
        "%loop = f32[2]{0} while(%x.last), condition=%more, body=%body, "
        'backend_config={"known_trip_count":{"n":"7"}}',
        "ROOT " + fusion("last", 1000),
        computations="%square (s: f32[2]) -> f32[2] {\n  %s = f32[2]{0} parameter(0)\n}\n\n"
        "%more (m: f32[2]) -> pred[] {\n  %m = f32[2]{0} parameter(0)\n}\n\n"
        "%body (b: f32[2]) -> f32[2] {\n  %x.a = f32[2]{0} parameter(0)\n"
        f"  {fusion('a', 30)}\n  %x.b = f32[2]{{0}} copy(%a)\n  {fusion('b', unknown)}\n}}\n\n",
    )
    assert hlo.cost(text).cycles == 1000 + 7 * 30
    assert hlo.cost(text.replace("estimated_cycles", "other")).cycles is None


def test_a_batch_of_products_that_a_tpu_writes_as_a_dilated_convolution_has_its_own_flops():
    """[8, 16, 513, 64] x [8, 16, 64, 513], of whose 8 x 16 taps one each meets data."""
    text = program(
        "%q = bf16[8,513,16,64]{3,1,2,0} parameter(0)",
        "%k = bf16[8,64,16,513]{3,1,2,0} parameter(1)",
        "ROOT %c = f32[8,16,513,513]{2,3,1,0:T(8,128)} convolution(%q, %k), window={size=8x16 "
        "stride=7x15 lhs_dilate=8x16}, dim_labels=0b1f_0i1o->01bf",
    )
    assert hlo.cost(text).flops == 2 * 8 * 16 * 513 * 513 * 64


def test_taps_on_padding_are_not_work():
    x, kernel = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 5))
    conv = jax.jit(
        lambda x, k: jax.lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    text = program(
        "%x = f32[1,4,4,3]{3,2,1,0} parameter(0)",
        "%k = f32[3,3,3,5]{3,2,1,0} parameter(1)",
        "ROOT %c = f32[1,4,4,5]{3,2,1,0} convolution(%x, %k), window={size=3x3 pad=1_1x1_1}, "
        "dim_labels=b01f_01io->b01f",
    )
    assert hlo.cost(text).flops == conv.lower(x, kernel).compile().cost_analysis()["flops"]


def test_the_fusions_of_one_asynchronous_collective_count_once():
    part = "%{0} (p.{0}: bf16[96]) -> bf16[1536] {{\n  %p.{0} = bf16[96]{{0}} parameter(0)\n"
    part += (
        "  ROOT %g.{0} = bf16[1536]{{0}} all-gather(%p.{0}), channel_id=7, dimensions={{0}}\n}}\n\n"
    )
    text = program(
        "%a = bf16[96]{0} parameter(0)",
        "%b = bf16[1536]{0} fusion(%a), kind=kCustom, calls=%start",
        "ROOT %c = bf16[1536]{0} fusion(%a), kind=kCustom, calls=%end",
        computations=part.format("start") + part.format("end"),
    )
    assert hlo.cost(text).collective_bytes == {"all-gather": 1536 * 2}


def test_an_all_reduce_that_keeps_one_part_is_a_reduce_scatter():
    text = program(
        "%a = f32[64,16]{1,0} parameter(0)",
        "ROOT %b = f32[4,16]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1",
        computations="%all-reduce-scatter.1 (i: f32[64,16]) -> f32[4,16] {\n"
        "  %i = f32[64,16]{1,0} parameter(0)\n"
        "  %r = f32[64,16]{1,0} all-reduce(%i), channel_id=3, to_apply=%add\n"
        "  ROOT %d = f32[4,16]{1,0} slice(%r), slice={[0:4], [0:16]}\n}\n\n"
        "%add (x: f32[], y: f32[]) -> f32[] {\n  %x = f32[] parameter(0)\n"
        "  %y = f32[] parameter(1)\n  ROOT %s = f32[] add(%x, %y)\n}\n\n",
    )
    assert hlo.cost(text).collective_bytes == {"reduce-scatter": 64 * 16 * 4}
