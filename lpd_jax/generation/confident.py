"""Generation in an order that the model chooses for each image: the surest cells first.

As in MaskGIT (Chang et al., 2022, arXiv 2202.04200) and Fast-dLLM (Wu et al., 2025, arXiv
2505.22618): every pass asks all cells and keeps the surest of those that are not there. How sure a
cell is, the probability of its likeliest code, does not depend on what is then drawn, so that the
rule is an order and the draws are those of any other. A query sees the context and itself, as that
of a group of one in training does: what is asked beside it is not what is kept beside it.

A pass has N queries where one of a given order has those of its group, so that equal numbers of
passes are not equal work.

Dims: B images, N tokens, S steps, G tokens of the largest group, Q queries, V codes.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct

from lpd_jax import parallel
from lpd_jax.generation.loop import Passes
from lpd_jax.generation.orders import Confident
from lpd_jax.generation.plan import Plan
from lpd_jax.generation.sampling import SamplingRule, guidance_scale, sample
from lpd_jax.models.decoder import Cache, Decoder
from lpd_jax.models.mask import visibility


@struct.dataclass
class _Group:
    """What a pass keeps: its cells and their codes int32 [B, G], and which of them count."""

    cells: jax.Array
    codes: jax.Array
    kept: jax.Array


@struct.dataclass
class _Run:
    """A generation on its way.

    Attributes:
        passes: int32 [], those done.
        groups: all so far, [B, S·G]; a pass has places of its own.
        count: int32 [B], tokens there.
        there: bool [B, N], cells there.
        cache: of the class and all groups but the last; 1 + S·G places.
    """

    passes: jax.Array
    groups: _Group
    count: jax.Array
    there: jax.Array
    cache: Cache


def generate_codes(
    decoder: Decoder,
    params,
    labels: jax.Array,
    keys: jax.Array,
    plan: Plan,
    rule: SamplingRule,
    order: Confident,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Generates tokens; pure, to be called under `jax.jit`. The loop ends with its slowest image.

    Args:
        decoder, params, labels, keys, rule: as in `loop.generate_codes`.
        plan: pass s keeps at least `group_sizes[s]` tokens, and at most the largest of them.
        order: what says how many more, and which.

    Returns:
        int32 [B, N] each: the codes in the order of generation, their raster indices, and the pass
        that generated each.
    """
    passes = Passes(decoder, params, plan, rule, keys)
    config, width, steps = decoder.config, max(plan.group_sizes), len(plan.group_sizes)
    batch, tokens = len(labels), config.num_tokens
    sizes = jnp.asarray(plan.group_sizes, jnp.int32)
    every_cell = jnp.broadcast_to(jnp.arange(tokens), (batch, tokens))
    queries = passes.apply(passes.branches(every_cell), method="embed_queries")

    def answer(context: jax.Array, kept: jax.Array, *cached):
        """One pass over the new context [B, C, D], of which the places `kept` [B, C] count."""
        place = jnp.arange(context.shape[1] + tokens) >= context.shape[1]
        rows = visibility(place.astype(jnp.int32), place, "independent", config.context_attention)
        columns = jnp.pad(kept, [(0, 0), (0, tokens)], constant_values=True)
        visible = passes.branches(rows & columns[:, None])
        return passes.apply(context, queries, visible, *cached, method="step")

    def keep(run: _Run, logits: jax.Array) -> _Run:
        choose = functools.partial(_choose, width, tokens)
        given = logits, keys, run.there, run.count
        if rule.guidance is not None:
            given = logits.reshape(batch, 2, *logits.shape[1:]), *given[1:]
        group = parallel.by_device(choose, given, run.passes, sizes[run.passes], rule, order)
        put = functools.partial(
            jax.lax.dynamic_update_slice_in_dim, start_index=run.passes * width, axis=1
        )
        new = group.kept[:, :, None] & (group.cells[:, :, None] == jnp.arange(tokens))
        return run.replace(
            passes=run.passes + 1,
            groups=jax.tree.map(put, run.groups, group),
            count=run.count + group.kept.sum(1, dtype=jnp.int32),
            there=run.there | new.any(1),
        )

    def later(run: _Run) -> _Run:
        start = (run.passes - 1) * width
        group = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, start, width, axis=1), run.groups
        )
        given = passes.branches(group.codes), passes.branches(group.cells)
        context = passes.apply(*given, method="embed_codes")
        in_cache = run.groups.kept & (jnp.arange(steps * width) < start)
        in_cache = jnp.pad(in_cache, [(0, 0), (1, 0)], constant_values=True)[:, None]
        found = answer(context, group.kept, run.cache, passes.branches(in_cache))
        cache = jax.tree.map(
            lambda whole, new: jax.lax.dynamic_update_slice_in_dim(whole, new, 1 + start, axis=-2),
            run.cache,
            found.context,
        )
        return keep(run.replace(cache=cache), found.logits)

    context = passes.apply(passes.with_no_class(labels), method="embed_class")
    found = answer(context, jnp.ones((batch, 1), bool))
    room = [(0, steps * width), (0, 0)]
    empty = jnp.zeros((batch, steps * width), jnp.int32)
    run = _Run(
        passes=jnp.int32(0),
        groups=_Group(empty, empty, empty > 0),
        count=jnp.zeros(batch, jnp.int32),
        there=jnp.zeros((batch, tokens), bool),
        cache=jax.tree.map(
            lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - len(room)) + room), found.context
        ),
    )
    run = jax.lax.while_loop(lambda run: (run.count < tokens).any(), later, keep(run, found.logits))
    return parallel.by_device(functools.partial(_in_order, width, tokens), (run.groups,))


def _choose(width, tokens, logits, keys, there, count, number, size, rule, order) -> _Group:
    """The surest cells of one pass, and codes drawn for them.

    Args:
        width: G.
        tokens: N.
        logits: float32 [B, N, V], or [B, 2, N, V] with and without the class.
        keys: typed keys [B].
        there: bool [B, N].
        count: int32 [B], of them.
        number: int32 [], of the pass.
        size: int32 [], tokens that it keeps at least.
        rule, order: of the generation.
    """
    if rule.guidance is not None:
        # Of the first token of the pass, since which of the cells will be which is not known yet.
        scale = guidance_scale(rule, count, tokens)[:, None, None]
        logits = logits[:, 1] + scale * (logits[:, 0] - logits[:, 1])
    sure = logits.max(-1) - jax.nn.logsumexp(logits, axis=-1)
    above = jnp.sum((sure > jnp.log(order.threshold)) & ~there, axis=1)
    noise = jax.vmap(
        lambda key: jax.random.gumbel(jax.random.fold_in(key, tokens + number), [tokens])
    )
    left = 1 - count[:, None] / tokens
    ranked = jnp.where(there, -jnp.inf, sure + order.noise * left * noise(keys))
    cells = jax.lax.top_k(ranked, width)[1].astype(jnp.int32)
    size = jnp.minimum(jnp.maximum(size, above), jnp.minimum(width, tokens - count))
    place = jnp.arange(width)
    chosen = jnp.take_along_axis(logits, cells[..., None], axis=1)
    codes = sample(chosen, keys, count[:, None] + place, rule)
    return _Group(cells, codes, place < size[:, None])


def _in_order(width: int, tokens: int, groups: _Group) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Codes, cells and passes int32 [B, N] of groups [B, S·G] with gaps."""
    places = jnp.argsort(~groups.kept, axis=1, stable=True)[:, :tokens]
    codes, cells = (jnp.take_along_axis(x, places, axis=1) for x in (groups.codes, groups.cells))
    return codes, cells, (places // width).astype(jnp.int32)
