# ruff: noqa: E501
"""Where the cycles of a program go, on texts as the TPU compiler writes them."""

import dataclasses

from lpd_jax.compiled import hlo
from lpd_jax.compiled.account import GENERATE, TRAIN, account
from lpd_jax.compiled.targets import CHIPS

V6E = CHIPS["v6e"]
DECODER = "jit(run)/jit(generate)/Tokenizer.decode/conv"
LOOP = "jit(run)/jit(generate)/while/body/Decoder.step"
TEXT = f"""HloModule m

%fused (a: f32[8,64,128], n: s32[]) -> f32[64,128] {{
  %a = f32[8,64,128]{{2,1,0}} parameter(0)
  %n = s32[] parameter(1)
  ROOT %s = f32[1,64,128]{{2,1,0}} dynamic-slice(%a, %n), dynamic_slice_sizes={{1,64,128}}
}}

%times (l: bf16[64,128], r: bf16[128,32]) -> f32[64,32] {{
  %l = bf16[64,128]{{1,0}} parameter(0)
  %r = bf16[128,32]{{1,0}} parameter(1)
  ROOT %d = f32[64,32]{{1,0}} dot(%l, %r), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}

%more (m: s32[]) -> pred[] {{
  %m = s32[] parameter(0)
}}

%body (b: s32[]) -> s32[] {{
  %b = s32[] parameter(0)
  %l.1 = bf16[64,128]{{1,0:T(8,128)S(1)}} copy(%b), backend_config={{"estimated_cycles":"5"}}
  %r.1 = bf16[128,32]{{1,0:T(8,128)}} custom-call(%b), custom_call_target="AllocateBuffer"
  %p = f32[64,32]{{1,0}} fusion(%l.1, %r.1), kind=kOutput, calls=%times, metadata={{op_name="{LOOP}/up"}}, backend_config={{"estimated_cycles":"40"}}
  %u = f32[64,32]{{1,0}} all-reduce(%p), channel_id=1, metadata={{op_name="{LOOP}/sum"}}
  %k = f32[64,32]{{1,0}} custom-call(%u), custom_call_target="tpu_custom_call", metadata={{op_name="{LOOP}/kernel"}}, backend_config={{"custom_call_config":{{"cost_estimate":{{"flops":"52428800","bytes_accessed":"4"}}}}}}
}}

ENTRY %main (x: f32[8,64,128], i: s32[]) -> s32[] {{
  %x = f32[8,64,128]{{2,1,0}} parameter(0)
  %i = s32[] parameter(1)
  %loop = s32[] while(%i), condition=%more, body=%body, metadata={{op_name="jit(run)/jit(generate)/while"}}, backend_config={{"known_trip_count":{{"n":"7"}}}}
  %f = f32[64,128]{{1,0}} fusion(%x, %i), kind=kLoop, calls=%fused, metadata={{op_name="{DECODER}"}}, backend_config={{"estimated_cycles":"100"}}
  %g = f32[64,128]{{1,0}} fusion(%x, %i), kind=kLoop, calls=%fused, metadata={{op_name="{DECODER}"}}, backend_config={{"estimated_cycles":"100"}}
}}
"""


def test_parts_lines_and_bytes():
    found = account(TEXT, GENERATE, V6E)
    assert found.cycles == hlo.cost(TEXT).cycles == 7 * 45 + 200
    # What has no name of its own belongs to the loop around it.
    assert {name: part.cycles for name, part in found.parts.items()} == {
        "VQ decoder": 200,
        "loop over steps": 7 * 45,
    }
    product, decoder, copy = found.lines
    assert (product.times, product.cycles, product.kind) == (7, 280, "fusion")
    assert product.flops == 7 * 2 * 64 * 128 * 32 == found.parts["loop over steps"].flops
    # The left operand lies in vector memory.
    assert product.bytes == 7 * (128 * 32 * 2 + 64 * 32 * 4)
    # A slice is read of the one array, and written; the number of it is read.
    assert (decoder.times, decoder.bytes) == (2, 2 * (2 * 64 * 128 * 4 + 4))
    assert (copy.source, copy.cycles) == ("jit(run)/jit(generate)/while", 35)


def test_what_has_no_figure_is_listed_and_kernels_are_charged():
    found = account(TEXT, GENERATE, V6E)
    (kernel,) = found.kernels
    assert kernel.flops == 7 * 52428800
    # Twice its products at the chip's peak, which is more than twice its memory's time.
    assert kernel.cycles == 7 * 2 * 100
    assert found.charged == found.cycles + kernel.cycles
    small = dataclasses.replace(V6E, bytes_per_cycle=8)
    assert account(TEXT, GENERATE, small).kernels[0].cycles == 7 * 2 * (2 * 64 * 32 * 4) // 8
    assert [(line.kind, line.bytes) for line in found.unpriced] == [
        ("all-reduce", 7 * 2 * 64 * 32 * 4)
    ]
    text = found.describe(3)
    assert "loop over steps" in text and "tpu_custom" not in text and "/kernel" in text
    row = found.row(1)
    assert row["cycles"] == found.charged and len(row["lines"]) == 1


def test_parts_of_training_are_told_by_their_scopes():
    layer = "Decoder._run/while/body/closed_call"
    names = {
        f"jit(step)/jvp(Decoder.hidden)/{layer}/blocks/up": "layers, forward",
        f"jit(step)/transpose(jvp(Decoder.hidden))/{layer}/blocks/up": "layers, backward",
        f"jit(step)/transpose(jvp(Decoder.hidden))/{layer}/checkpoint/rematted_computation/up": (
            "layers, computed again"
        ),
        "jit(step)/jvp(Decoder.hidden)/Decoder.embed_codes/add": "embeddings",
        "jit(step)/transpose(jvp(Decoder.logits))/head/dot_general": "head and loss",
        "jit(step)/mul": "optimizer and the rest",
    }
    for name, part in names.items():
        (line,) = account(TEXT.replace(f"{LOOP}/up", name), TRAIN, V6E).lines[:1]
        assert line.part == part
