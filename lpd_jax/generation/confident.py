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

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from lpd_jax import parallel
from lpd_jax.generation.loop import Passes
from lpd_jax.generation.orders import Confident
from lpd_jax.generation.plan import Plan
from lpd_jax.generation.sampling import SamplingRule, guidance_scale, guide, sample
from lpd_jax.models.decoder import Cache, Decoder, Pass
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
    loop, tokens = _Loop(decoder, params, keys, plan, rule, order), decoder.config.num_tokens
    run = jax.lax.while_loop(lambda run: (run.count < tokens).any(), loop.later, loop.first(labels))
    return parallel.by_device(functools.partial(_in_order, loop.width, tokens), (run.groups,))


class _Loop:
    """The passes of one generation and what they share; arguments as in `generate_codes`."""

    def __init__(self, decoder, params, keys, plan, rule, order):
        self.passes = Passes(decoder, params, plan, rule, keys)
        self.config, self.keys, self.rule, self.order = decoder.config, keys, rule, order
        self.sizes = jnp.asarray(plan.group_sizes, jnp.int32)
        self.width = max(plan.group_sizes)
        self.places = len(plan.group_sizes) * self.width
        cells = jnp.arange(self.config.num_tokens)
        every = self.passes.branches(jnp.broadcast_to(cells, (keys.shape[0], len(cells))))
        self.queries = self.passes.apply(every, method="embed_queries")

    def first(self, labels: jax.Array) -> _Run:
        """The first pass, whose context is the class."""
        context = self.passes.apply(self.passes.with_no_class(labels), method="embed_class")
        batch = labels.shape[0]
        found = self._answer(context, jnp.ones((batch, 1), bool))
        room = [(0, self.places), (0, 0)]
        empty = jnp.zeros((batch, self.places), jnp.int32)
        run = _Run(
            passes=jnp.int32(0),
            groups=_Group(empty, empty, empty > 0),
            count=jnp.zeros(batch, jnp.int32),
            there=jnp.zeros((batch, self.config.num_tokens), bool),
            cache=jax.tree.map(
                lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - len(room)) + room), found.context
            ),
        )
        return self._keep(run, found.logits)

    def later(self, run: _Run) -> _Run:
        """One more pass: the last group becomes context, and the next is kept."""
        start, branches = (run.passes - 1) * self.width, self.passes.branches
        group = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, start, self.width, axis=1), run.groups
        )
        given = branches(group.codes), branches(group.cells)
        context = self.passes.apply(*given, method="embed_codes")
        in_cache = run.groups.kept & (jnp.arange(self.places) < start)
        in_cache = jnp.pad(in_cache, [(0, 0), (1, 0)], constant_values=True)[:, None]
        found = self._answer(context, group.kept, run.cache, branches(in_cache))
        cache = jax.tree.map(
            lambda whole, new: jax.lax.dynamic_update_slice_in_dim(whole, new, 1 + start, axis=-2),
            run.cache,
            found.context,
        )
        return self._keep(dataclasses.replace(run, cache=cache), found.logits)

    def _answer(self, context: jax.Array, kept: jax.Array, *cached: Any) -> Pass:
        """All cells, in view of the new context [B, C, D] of which the places `kept` [B, C] count.

        `cached` are the cache and which of its places count, bool [B, 1, P]; or nothing.
        """
        tokens = self.config.num_tokens
        asks = jnp.arange(context.shape[1] + tokens) >= context.shape[1]
        rows = visibility(
            asks.astype(jnp.int32), asks, "independent", self.config.context_attention
        )
        columns = jnp.pad(kept, [(0, 0), (0, tokens)], constant_values=True)
        visible = self.passes.branches(rows & columns[:, None])
        return self.passes.apply(context, self.queries, visible, *cached, method="step")

    def _keep(self, run: _Run, logits: jax.Array) -> _Run:
        """The run after a pass that gave these logits float32 [B or 2B, N, V]."""
        tokens = self.config.num_tokens
        choose = functools.partial(_choose, self.width, tokens)
        if self.rule.guidance is not None:
            logits = logits.reshape(-1, 2, *logits.shape[1:])
        given = logits, self.keys, run.there, run.count
        size = self.sizes[run.passes]
        group = parallel.by_device(choose, given, run.passes, size, self.rule, self.order)
        put = functools.partial(
            jax.lax.dynamic_update_slice_in_dim, start_index=run.passes * self.width, axis=1
        )
        new = group.kept[:, :, None] & (group.cells[:, :, None] == jnp.arange(tokens))
        return dataclasses.replace(
            run,
            passes=run.passes + 1,
            groups=jax.tree.map(put, run.groups, group),
            count=run.count + group.kept.sum(1, dtype=jnp.int32),
            there=run.there | new.any(1),
        )


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
        scale = guidance_scale(rule, count, tokens)[:, None]
        logits = guide(logits[:, 0], logits[:, 1], scale)
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
