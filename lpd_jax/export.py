"""The compiled sampler as a file: `jax.export` of labels to pixels for any batch and platform.

`launch/run_export.py` shows all that is needed to call it: jax, flatbuffers and safetensors.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from lpd_jax.errors import InputError
from lpd_jax.generation.addresses import image_keys
from lpd_jax.generation.plan import make_plan
from lpd_jax.generation.program import generate
from lpd_jax.generation.sampling import SamplingRule
from lpd_jax.sampler import Sampler, checks

PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A program and what it is called with.

    Attributes:
        program: serialised; `jax.export.deserialize(program).call(params, labels, indices, seed,
            numbers)` returns a dict of images uint8 [B, H, W, 3], codes int32 [B, N] and orders
            int32 [B, N]. Labels and indices are int32 [B] for any B of at least 1, the seed is
            uint32 [].
        params: name -> array.
        numbers: the settings that each call may change, float32 [], and their defaults.
    """

    program: bytes
    params: dict[str, np.ndarray]
    numbers: dict[str, float]


def export_sampler(
    sampler: Sampler,
    group_sizes: Sequence[int],
    order: Any,
    rule: SamplingRule,
    segments: int = 1,
    platforms: Sequence[str] = PLATFORMS,
) -> Artifact:
    """The program that `Sampler.sample` runs, for any batch, with its parameters beside it.

    Compiled in: the networks, the group sizes, the order and its thresholds, top-k, and whether
    there is guidance at all. Label, index and seed decide an image as in the sampler.

    Args:
        sampler: networks and parameters, in floats or int8, on any mesh; the program is for one
            device.
        group_sizes: S ints, sum N.
        order: one of `lpd_jax.generation.orders`, or the name of one.
        rule: guidance and sampling; its numbers become the defaults of the call.
        segments: compiled loop bodies that the steps are divided among.
        platforms: that the program runs on.

    Raises:
        InputError: the group sizes or the rule do not fit the model, orders are given rather than
            drawn, several processes hold the parameters, or flatbuffers is not installed.
    """
    config = sampler.decoder.config
    group_sizes = checks.group_sizes(group_sizes, config.num_tokens)
    if not isinstance(order, str) and not hasattr(order, "draw"):
        raise InputError(
            "an exported sampler draws its orders itself and has no place for a file of them; "
            "set sample.order instead of sample.order_file."
        )
    order = checks.order(order, 1, config.num_tokens)
    rule = checks.rule(rule, sampler.guidable)
    if jax.process_count() > 1:
        raise InputError("export runs in one process; start it on one host.")
    tree = _as_used(sampler)
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    params = {name: np.asarray(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}
    numbers = {
        field.name: float(getattr(rule, field.name))
        for field in dataclasses.fields(rule)
        if field.metadata.get("pytree_node", True) and getattr(rule, field.name) is not None
    }
    plan = make_plan(group_sizes, segments)

    def run(params, labels, indices, seed, numbers):
        networks = jax.tree.unflatten(structure, [params[name] for name in names])
        key = jax.random.key(seed)
        samples = generate(
            sampler.decoder,
            sampler.tokenizer,
            (networks["decoder"], networks["tokenizer"]),
            labels,
            indices,
            key,
            _draw_one_by_one(order, key, indices, config.grid, plan.group_sizes),
            plan,
            dataclasses.replace(rule, **numbers),
        )
        return {"images": samples.images, "codes": samples.codes, "orders": samples.orders}

    (batch,) = export.symbolic_shape("b", constraints=["b >= 1"])
    per_image = jax.ShapeDtypeStruct((batch,), jnp.int32)
    exported = export.export(jax.jit(run), platforms=tuple(platforms))(
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params),
        per_image,
        per_image,
        jax.ShapeDtypeStruct((), jnp.uint32),
        {name: jax.ShapeDtypeStruct((), jnp.float32) for name in numbers},
    )
    return Artifact(_serialized(exported), params, numbers)


def _draw_one_by_one(order, key, indices, grid, group_sizes) -> jax.Array:
    """`program.draw_orders` in a loop: the locality-aware order drawn as a batch needs its size."""
    order_keys, _ = image_keys(key, indices)
    return jax.lax.map(lambda k: order.draw(k, grid, group_sizes), order_keys)


def _as_used(sampler: Sampler) -> dict[str, Any]:
    """The parameters that generation reads: none of those that encode images."""
    codes = jnp.zeros((1, sampler.decoder.config.num_tokens), jnp.int32)
    read = jax.eval_shape(
        lambda key: sampler.tokenizer.init(
            key, codes, sampler.decoder.config.grid, method="decode"
        ),
        jax.random.key(0),
    )
    tokenizer = {name: sampler.tokenizer_params[name] for name in read["params"]}
    return {"decoder": sampler.decoder_params, "tokenizer": tokenizer}


def _serialized(exported: export.Exported) -> bytes:
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise InputError(
            "exported programs are written with flatbuffers, which is not installed; run "
            "pip install -e '.[export]'."
        ) from error
