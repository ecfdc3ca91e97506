"""The decoding loop: from labels and orders to codes in one XLA program (paper section 3.1).

Each step is one pass through the decoder: the tokens of the last group enter the cache as context
while the queries of the next group are answered. The first pass holds the class, any known tokens
(a group of their own), and the queries of the first group.

Dims: B batch, N image tokens, M tokens to be generated, G padded group, C context places,
Q query places, P cached places.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lpd_jax import parallel
from lpd_jax.generation.groups import step_of
from lpd_jax.generation.plan import Plan, Segment
from lpd_jax.generation.sampling import SamplingRule, guidance_scale, guide, sample
from lpd_jax.models.decoder import Cache, Decoder
from lpd_jax.models.mask import visibility

Draw = Callable[..., jax.Array]

_TABLES = ("token_embed", "pos_embed", "query", "embed_norm")  # that steps embed with


def generate_codes(
    decoder: Decoder,
    params,
    labels: jax.Array,
    orders: jax.Array,
    keys: jax.Array,
    plan: Plan,
    rule: SamplingRule,
    known: tuple[jax.Array, jax.Array] | None = None,
    draw: Draw = sample,
) -> jax.Array:
    """Generates tokens in the given orders; pure, to be called under `jax.jit`.

    Args:
        decoder: the network; its config says N.
        params: its parameters.
        labels: int32 [B] in 0..num_classes (the last generates without a class).
        orders: int32 [B, M], generation position -> raster index.
        keys: typed keys [B], one per image.
        plan: group sizes and how steps are padded; static.
        rule: guidance and sampling.
        known: None, or known codes and their raster positions, each int32 [B, num_known].
        draw: from guided logits float32 [B, G, V] to codes int32 [B, G]; like `sampling.sample`.

    Returns:
        int32 [B, M], the generated codes in the order of generation.
    """
    run = Passes(decoder, params, plan, rule, keys, draw)
    orders = padded(orders, plan)
    tokens, cache = run.prefill(labels, orders, known)
    for segment in plan.segments:
        cache = with_room(cache, segment)
        step = functools.partial(run.step, segment, orders)
        (tokens, cache), _ = jax.lax.scan(step, (tokens, cache), places(plan, segment))
    return tokens[:, : plan.num_generated]


def padded(orders: jax.Array, plan: Plan) -> jax.Array:
    """Orders int32 [B, M] with room at the end for the overhang of padded groups."""
    overhang = max([plan.group_sizes[0], *(s.query_width for s in plan.segments)])
    return jnp.pad(orders, [(0, 0), (0, overhang)])


def places(plan: Plan, segment: Segment) -> dict[str, np.ndarray]:
    """Where each step of a segment begins and how many tokens it has, and the step before it."""
    return {
        "start": plan.starts[segment.first : segment.last],
        "size": np.array(plan.group_sizes[segment.first : segment.last], np.int32),
        "last_start": plan.starts[segment.first - 1 : segment.last - 1],
        "last_size": np.array(plan.group_sizes[segment.first - 1 : segment.last - 1], np.int32),
    }


def with_room(cache: Cache, segment: Segment) -> Cache:
    """A cache of any earlier pass with at least the places that the steps of a segment need.

    It grows from segment to segment: a part taken out of a whole cache would be copied in each
    step.
    """

    def grow(x: jax.Array) -> jax.Array:
        places = [(0, max(0, segment.room - x.shape[-2])), (0, 0)]
        return jnp.pad(x, [(0, 0)] * (x.ndim - len(places)) + places)

    return jax.tree.map(grow, cache)


def to_raster(codes: jax.Array, orders: jax.Array, num_tokens: int) -> jax.Array:
    """Codes int32 [B, M] at raster indices int32 [B, M] -> int32 [B, N], zero elsewhere."""
    # By its shape and not its `len`: an exported program has a batch of any size.
    return fill_in(jnp.zeros((codes.shape[0], num_tokens), codes.dtype), orders, codes)


def fill_in(codes: jax.Array, orders: jax.Array, generated: jax.Array) -> jax.Array:
    """Codes int32 [B, N] with `generated` int32 [B, M] at the raster indices `orders` [B, M]."""
    return jax.vmap(lambda row, order, code: row.at[order].set(code))(codes, orders, generated)


class Passes:
    """The passes of one generation, with what they share bound; arguments as in `generate_codes`.

    `generate_codes` loops over them in one program, `stepwise` makes each a program.
    """

    def __init__(
        self,
        decoder: Decoder,
        params,
        plan: Plan,
        rule: SamplingRule,
        keys: jax.Array,
        draw: Draw = sample,
    ):
        # Once and not in each step: a look-up in a cut table makes the devices wait for each other.
        params = params | parallel.gather({name: params[name] for name in _TABLES})
        self.apply = functools.partial(decoder.apply, {"params": params})
        self.config, self.plan, self.rule = decoder.config, plan, rule
        self.draw = functools.partial(draw, keys=keys, rule=rule)

    def branches(self, x: jax.Array) -> jax.Array:
        """Repeats rows for the guided and the unguided branch, which lie side by side."""
        return x if self.rule.guidance is None else jnp.repeat(x, 2, axis=0)

    def with_no_class(self, labels: jax.Array) -> jax.Array:
        """Labels int32 [B] of the branches: with guidance [2B], each beside no class."""
        if self.rule.guidance is None:
            return labels
        no_class = jnp.full_like(labels, self.config.num_classes)
        return jnp.stack([labels, no_class], axis=1).reshape(-1)

    def visible(self, *groups: int) -> jax.Array:
        """Attention mask among the new places of a pass: groups of context, then one of queries.

        Returns:
            bool [C+Q, C+Q].
        """
        step = step_of(groups)
        c = self.config
        return visibility(step, step == len(groups) - 1, c.query_attention, c.context_attention)

    def prefill(self, labels, orders, known=None) -> tuple[jax.Array, Cache]:
        """First pass: class and known tokens as context, the first group as queries.

        Args:
            labels, known: as in `generate_codes`.
            orders: int32 [B, M + overhang], from `padded`.

        Returns:
            Tokens int32 [B, M + overhang], of which the first group is there, and the cache, which
            is full.
        """
        size = self.plan.group_sizes[0]
        context = self.apply(self.with_no_class(labels), method="embed_class")
        if known is not None:
            codes, positions = map(self.branches, known)
            embedded = self.apply(codes, positions, method="embed_codes")
            context = jnp.concatenate([context, embedded], axis=1)
        queries = self.apply(self.branches(orders[:, :size]), method="embed_queries")
        visible = self.visible(1, self.plan.num_known, size)
        answer = self.apply(context, queries, visible[None], method="step")
        tokens = self._draw(answer.logits, jnp.zeros_like(orders), jnp.int32(0))
        return tokens, answer.context

    def step(self, segment: Segment, orders, carry, at) -> tuple[tuple[jax.Array, Cache], None]:
        """One later pass: the last group becomes context, the next group is answered.

        Args:
            segment: of the step; static.
            orders: int32 [B, M + overhang].
            carry: tokens and cache of the pass before; the cache as `with_room` leaves it.
            at: the step's entry of `places`, int32 [] each.

        Returns:
            The carry and None, as `jax.lax.scan` wants them.
        """
        tokens, cache = carry
        cached = 1 + self.plan.num_known + at["last_start"]
        last = functools.partial(
            jax.lax.dynamic_slice_in_dim,
            start_index=at["last_start"],
            slice_size=segment.context_width,
            axis=1,
        )
        asked = jax.lax.dynamic_slice_in_dim(orders, at["start"], segment.query_width, axis=1)
        context = self.apply(
            self.branches(last(tokens)), self.branches(last(orders)), method="embed_codes"
        )
        queries = self.apply(self.branches(asked), method="embed_queries")

        context_column = jnp.arange(segment.context_width) < at["last_size"]
        query_column = jnp.arange(segment.query_width) < at["size"]
        columns = jnp.concatenate([context_column, query_column])
        visible = columns & self.visible(segment.context_width, segment.query_width)
        in_cache = jnp.arange(jax.tree.leaves(cache)[0].shape[-2]) < cached

        answer = self.apply(
            context, queries, visible[None], cache, in_cache[None, None], method="step"
        )
        cache = jax.tree.map(
            lambda whole, new: jax.lax.dynamic_update_slice_in_dim(whole, new, cached, axis=-2),
            cache,
            answer.context,
        )
        return (self._draw(answer.logits, tokens, at["start"]), cache), None

    def _draw(self, logits, tokens, start) -> jax.Array:
        """Samples a (padded) group and writes it; the overhang is overwritten by the next."""
        positions = start + jnp.arange(logits.shape[1])
        if self.rule.guidance is not None:
            # Known tokens count as generated, so that the scale is that of a whole generation.
            scale = guidance_scale(
                self.rule, self.plan.num_known + positions, self.config.num_tokens
            )
            logits = guide(logits[0::2], logits[1::2], scale)
        drawn = self.draw(logits, positions=positions)
        return jax.lax.dynamic_update_slice_in_dim(tokens, drawn, start, axis=1)
