"""Programs for TPUs that are not there: what is said before anything is compiled."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from lpd_jax import parallel
from lpd_jax.compiled import hlo, programs, reports, targets
from lpd_jax.compiled.account import GENERATE
from lpd_jax.errors import InputError
from lpd_jax.parallel import MeshConfig


@pytest.mark.parametrize("name", ["v5e", "v5e:16", "v5e:4x4x4", "v4:4x4", "v9:2x2", "v5e:0x4"])
def test_names_that_are_no_topology_are_refused(name):
    with pytest.raises(InputError, match="must be a chip and its sizes"):
        targets.chip_of(name)


def test_without_libtpu_the_sentence_says_what_to_install(monkeypatch):
    def missing(*_, **__):
        raise RuntimeError("JAX TPU support not installed; cannot generate TPU topology.")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    with pytest.raises(InputError, match=r"pip install -e '\.\[aot\]'"):
        targets.devices("v5e:2x2")


def test_a_topology_that_libtpu_does_not_know_is_named_with_its_reason(monkeypatch):
    def unknown(*_, **__):
        raise RuntimeError('INVALID_ARGUMENT: layout "v5e:3x3" is not divisible\nmore')

    monkeypatch.setattr(topologies, "get_topology_desc", unknown)
    with pytest.raises(InputError, match='v5e:3x3: layout "v5e:3x3" is not divisible'):
        targets.devices("v5e:3x3")


@pytest.mark.parametrize(("batch", "parts"), [(12, 1), (0, 1), (8, 2)])
def test_a_batch_that_does_not_divide_is_refused(batch, parts):
    mesh = parallel.make_mesh(MeshConfig(fsdp=2))
    with pytest.raises(InputError, match=f"a batch of {batch} does not divide into {parts}"):
        programs.train_program(lambda key: key, None, 4, batch, parts, mesh, parallel.RULES)


class _NoRoom:
    """A function whose compilation ends as the TPU compiler's does when memory is short."""

    def __init__(self, message):
        self.message = message

    def lower(self, *_):
        return self

    def compile(self, options):
        raise jax.errors.JaxRuntimeError(self.message)


def check(message):
    mesh = parallel.make_mesh(MeshConfig())
    whole = programs.placed(jax.ShapeDtypeStruct((4, 4), jnp.float32), parallel.replicated(mesh))
    program = programs.Program(
        "generation", 8, _NoRoom(message), (whole,), {"decoder": whole}, GENERATE
    )
    return reports.check(program, targets.CHIPS["v5e"], mesh, parallel.RULES)


def test_a_program_without_room_is_reported_with_what_it_would_take():
    report = check(
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries (36.50G) exceeds available HBM (15.75G)."
    )
    assert not report.fits
    assert report.peak == 36.5 * reports.GIB
    assert report.parts == {"decoder": 4 * 4 * 4}


def test_other_failures_of_the_compiler_are_not_hidden():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        check("INTERNAL: something else")


def report(name="train step", parts=None, **fields):
    return reports.Report(
        name=name,
        fits=False,
        parts=parts or {"parameters": reports.GIB},
        peak=20 * reports.GIB,
        limit=16 * reports.GIB,
        temporary=0,
        code=0,
        cost=None,
        account=None,
        lower_seconds=0.0,
        compile_seconds=0.0,
        cpu_seconds=0.0,
        **fields,
    )


@pytest.mark.parametrize(
    ("name", "parts", "remat", "change"),
    [
        (
            "train step",
            {"parameters": 5 * reports.GIB, "optimizer": 10 * reports.GIB},
            "none",
            "mesh.fsdp",
        ),
        ("train step", None, "none", "decoder.remat=full"),
        ("train step", None, "full", "train.accumulate"),
        ("generation", None, "none", "sample.batch_size"),
    ],
)
def test_what_does_not_fit_is_told_what_to_change(name, parts, remat, change):
    assert change in reports.advice(report(name, parts), remat)


def test_a_program_that_waits_for_the_host_is_not_accepted():
    cost = hlo.Cost(0, {}, ("send.1",), (), None)
    fitting = dataclasses.replace(report(), fits=True, cost=cost)
    assert "send.1" in reports.advice(fitting, "none")
    assert reports.advice(dataclasses.replace(fitting, cost=None), "none") is None
