"""The attention mask as a function of group numbers (paper section 3.1)."""

import jax
import jax.numpy as jnp


def visibility(
    step: jax.Array,
    is_query: jax.Array,
    query_attention: str = "group",
    context_attention: str = "group",
) -> jax.Array:
    """The attention mask: which places a place attends to (official `models/mask.py`).

    A context token sees context of its own and earlier steps, a query sees context of earlier
    steps and the queries of its own step. The variants of `DecoderConfig` narrow what is seen of
    the own step.

    Args:
        step: int32 [..., T], group number of each place, non-decreasing among the context places
            and among the queries. The class is context of the step before the first.
        is_query: bool [T].
        query_attention, context_attention: see `DecoderConfig`.

    Returns:
        bool [..., T, T]; rows ask, columns are seen.
    """
    row, column = step[..., :, None], step[..., None, :]
    place = jnp.arange(len(is_query))
    context_sees = row >= column
    if context_attention == "causal":
        context_sees &= place[:, None] >= place
    query_sees = row == column
    if query_attention == "independent":
        query_sees &= place[:, None] == place
    asks = is_query[:, None]
    return jnp.where(is_query, asks & query_sees, jnp.where(asks, row > column, context_sees))


def training_mask(
    step_of: jax.Array, query_attention: str = "group", context_attention: str = "group"
) -> jax.Array:
    """`visibility` when a whole image is trained at once.

    The token generated last is seen by nobody under any schedule, and has no place: with N places
    of context and N of queries the axes are aligned for TPUs, which 1+N are not.

    Args:
        step_of: int32 [..., N], group number of the i-th generated token, non-decreasing.
        query_attention, context_attention: see `DecoderConfig`.

    Returns:
        bool [..., 2N, 2N]; class, context of all tokens but the last, then queries.
    """
    first = jnp.full((*step_of.shape[:-1], 1), -1, step_of.dtype)
    step = jnp.concatenate([first, step_of[..., :-1], step_of], axis=-1)
    is_query = jnp.arange(step.shape[-1]) >= step_of.shape[-1]
    return visibility(step, is_query, query_attention, context_attention)
