"""The flexible parallelised autoregressive decoder (paper section 3.1; official `models/lpd.py`).

One pass sees a run of *context* (generated tokens, the class first of all) and a run of *queries*
(a learned vector plus the embedding of the position that it asks for). Every query of a group sees
the context and its group; nobody else sees a query. Training is one pass over the whole image,
generation is one pass per step on top of a cache of context keys and values.

Dims: B batch, N image tokens, C context places, Q query places, P cached places, D width,
H heads, K head width, F hidden width of the MLP, V codes, L layers.
"""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lpd_jax import checks
from lpd_jax.errors import InputError
from lpd_jax.models.attention import KERNELS, ImageMask, Keys, attend, attend_image
from lpd_jax.models.dropout import Dropout
from lpd_jax.models.gelu import gelu
from lpd_jax.models.linear import Linear, logical
from lpd_jax.models.mask import training_mask
from lpd_jax.models.norm import LayerNorm

# Keys and values of all layers, each [L, B, H, P, K]; unrolled, L pairs of [B, H, P, K].
Cache = tuple[jax.Array, jax.Array] | tuple[tuple[jax.Array, jax.Array], ...]


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape and arithmetic of a decoder.

    Attributes:
        grid: rows and columns of codes; N is their product.
        vocab_size: V, codes of the tokenizer.
        num_classes: classes; the label `num_classes` itself is "no class" (guidance).
        width, depth, heads: D, L, H. The head width is D / H.
        mlp_ratio: F / D.
        dropout: rate after the attention projection and at both places of the MLP, in [0, 1).
        norm_eps: epsilon of every LayerNorm.
        dtype: of matrix products ("float32" or "bfloat16"); parameters, the residual stream,
            norms, softmax and logits are float32 either way.
        remat: "none" keeps activations, "full" recomputes each block in the backward pass,
            "dots" recomputes all but the matrix products.
        layers: "scan" keeps the parameters of all layers stacked and loops over them, which is how
            they are trained and stored; "unrolled" keeps each layer's apart (`trained.lay_out`), so
            that no product has to copy its kernel out of the stack.
        unroll: layers per iteration of that loop (1 compiles fastest).
        query_attention: "group" lets the queries of a group see each other, "independent" only
            themselves (as in RandAR).
        context_attention: "group" lets a context token see its whole group, "causal" only what
            was generated before it, in the order of generation.
        attention: what attends in training: "xla" anywhere, "cudnn" (bfloat16) or "tokamax" on
            NVIDIA GPUs. Generation attends with XLA.
        attention_split: compute no scores of context against queries in training; all are masked.
    """

    grid: tuple[int, int] = (16, 16)
    vocab_size: int = 16384
    num_classes: int = 1000
    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    dropout: float = 0.1
    norm_eps: float = 1e-6
    dtype: str = "float32"
    remat: str = "none"
    layers: str = "scan"
    unroll: int = 1
    query_attention: str = "group"
    context_attention: str = "group"
    attention: str = "xla"
    attention_split: bool = True

    def __post_init__(self):
        object.__setattr__(self, "grid", tuple(self.grid))
        for name in ("vocab_size", "num_classes", "width", "depth", "heads", "unroll"):
            checks.whole(f"decoder.{name}", getattr(self, name), 1)
        for side in self.grid:
            checks.whole("decoder.grid", side, 1)
        if checks.number("decoder.dropout", self.dropout, 0) >= 1:
            raise InputError(f"decoder.dropout={self.dropout} must be in [0, 1).")
        if self.width % self.heads:
            raise InputError(
                f"decoder.width={self.width} is not a multiple of decoder.heads={self.heads}; "
                "change one of them."
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise InputError(f"decoder.dtype={self.dtype!r} must be 'float32' or 'bfloat16'.")
        if self.remat not in ("none", "full", "dots"):
            raise InputError(f"decoder.remat={self.remat!r} must be 'none', 'full' or 'dots'.")
        if self.layers not in ("scan", "unrolled"):
            raise InputError(f"decoder.layers={self.layers!r} must be 'scan' or 'unrolled'.")
        if self.query_attention not in ("group", "independent"):
            raise InputError(
                f"decoder.query_attention={self.query_attention!r} must be 'group' or "
                "'independent'."
            )
        if self.context_attention not in ("group", "causal"):
            raise InputError(
                f"decoder.context_attention={self.context_attention!r} must be 'group' or 'causal'."
            )
        if self.attention not in KERNELS:
            raise InputError(
                f"decoder.attention={self.attention!r} must be one of {', '.join(KERNELS)}."
            )

    @property
    def num_tokens(self) -> int:
        """N, tokens of an image."""
        return self.grid[0] * self.grid[1]


class Pass(NamedTuple):
    """What one pass through the decoder gives: logits of the queries, keys/values of the context.

    Attributes:
        logits: float32 [B, Q, V].
        context: None, or keys and values of the C context places, to be put in the cache.
    """

    logits: jax.Array
    context: Cache | None


_NORMAL = nn.initializers.normal(0.02)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a GELU MLP (official `models/block.py`)."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        cache: Cache | None,
        visible: jax.Array | ImageMask,
        cache_visible: jax.Array | None,
        num_kept: int,
        deterministic: bool,
    ) -> tuple[jax.Array, Cache | None]:
        """Transforms x [B, C+Q, D]; also returns keys and values of its first `num_kept` places."""
        c = self.config
        head_width, hidden_width = c.width // c.heads, round(c.width * c.mlp_ratio)
        linear = functools.partial(Linear, dtype=c.dtype)
        norm = functools.partial(LayerNorm, epsilon=c.norm_eps)
        drop = Dropout(c.dropout, deterministic=deterministic)
        qkv = linear(
            "btd,dshk->btshk",
            (c.width, 3, c.heads, head_width),
            ("embed", None, "heads", "head_width"),
            name="qkv",
        )(norm(name="norm1")(x))
        query, key, value = (qkv[..., i, :, :] for i in range(3))
        if isinstance(visible, ImageMask):
            answer = attend_image(query, key, value, visible)
        else:
            key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
            cached = [] if cache is None else [Keys(*cache, cache_visible)]
            answer = attend(query, [*cached, Keys(key, value, visible)])
        answer = linear(
            "bthk,hkd->btd",
            (c.heads, head_width, c.width),
            ("heads", "head_width", "embed"),
            contracted=2,
            name="proj",
        )(answer)
        x = x + drop(answer)

        hidden = linear("btd,df->btf", (c.width, hidden_width), ("embed", "mlp"), name="up")(
            norm(name="norm2")(x)
        )
        hidden = drop(gelu(hidden))
        hidden = linear("btf,fd->btd", (hidden_width, c.width), ("mlp", "embed"), name="down")(
            hidden
        )
        x = nn.with_logical_constraint(x + drop(hidden), ("batch", "length", "embed_act"))
        return x, (key[:, :, :num_kept], value[:, :, :num_kept]) if num_kept else None


@functools.partial(jax.jit, static_argnames=("config", "num_kept", "deterministic"))
def _block(config, params, x, cache, visible, cache_visible, num_kept, deterministic):
    return Block(config, parent=None).apply(
        {"params": params}, x, cache, visible, cache_visible, num_kept, deterministic
    )


def _once(block: Block):
    """A bound block as a function that is traced once for all layers of a decoder."""
    return functools.partial(_block, block.config, block.variables["params"])


_REMAT_POLICY = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


class Decoder(nn.Module):
    """Codes, classes and positions in; logits over codes out."""

    config: DecoderConfig

    def setup(self):
        c = self.config
        embed = functools.partial(
            nn.Embed, features=c.width, embedding_init=logical(_NORMAL, "vocab", "embed")
        )
        self.token_embed = embed(c.vocab_size)
        self.class_embed = nn.Embed(
            c.num_classes, c.width, embedding_init=logical(_NORMAL, None, "embed")
        )
        self.pos_embed = self.param(
            "pos_embed", logical(_NORMAL, None, "embed"), (1 + c.num_tokens, c.width)
        )
        self.null_class = self.param("null_class", logical(_NORMAL, "embed"), (c.width,))
        self.query = self.param("query", logical(_NORMAL, "embed"), (c.width,))
        # The embedding norm keeps 1e-6 whatever the blocks use: so does the official code.
        self.embed_norm = LayerNorm(epsilon=1e-6)
        self.norm = LayerNorm(epsilon=c.norm_eps)
        block = Block
        if c.remat != "none":
            block = nn.remat(
                Block, prevent_cse=False, static_argnums=(5, 6), policy=_REMAT_POLICY[c.remat]
            )
        if c.layers == "scan":
            self.blocks = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
                length=c.depth,
                unroll=c.unroll,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )(c)
        else:
            self.blocks = [block(c) for _ in range(c.depth)]
        self.head = Linear(
            "btd,dv->btv", (c.width, c.vocab_size), ("embed", "vocab"), dtype=c.dtype, bias=False
        )

    def embed_class(self, labels: jax.Array) -> jax.Array:
        """Labels int32 [B] in 0..num_classes (the last is "no class") -> context [B, 1, D]."""
        no_class = labels[:, None] == self.config.num_classes
        embedding = jnp.where(no_class, self.null_class, self.class_embed(labels))
        return self.embed_norm(embedding + self.pos_embed[0])[:, None]

    def embed_codes(self, codes: jax.Array, positions: jax.Array) -> jax.Array:
        """Codes int32 [B, C] at raster positions int32 [B, C] -> context [B, C, D]."""
        return self.embed_norm(self.token_embed(codes) + self.pos_embed[1 + positions])

    def embed_queries(self, positions: jax.Array) -> jax.Array:
        """Raster positions int32 [B, Q] -> queries [B, Q, D]."""
        return self.embed_norm(self.query + self.pos_embed[1 + positions])

    def step(
        self,
        context: jax.Array,
        queries: jax.Array,
        visible: jax.Array,
        cache: Cache | None = None,
        cache_visible: jax.Array | None = None,
        *,
        keep: bool = True,
        train: bool = False,
    ) -> Pass:
        """One pass: new context and queries, on top of what the cache holds.

        Args:
            context: [B, C, D] from `embed_class` and `embed_codes`.
            queries: [B, Q, D] from `embed_queries`.
            visible: bool, broadcastable to [B, C+Q, C+Q]: which new place a row may see.
            cache: keys and values of P places in every layer, or None.
            cache_visible: bool, broadcastable to [B, C+Q, P].
            keep: return the keys and values of the new context.
            train: apply dropout (needs a "dropout" rng).
        """
        hidden, kept = self._run(context, queries, visible, cache, cache_visible, keep, train)
        return Pass(self.logits(hidden), kept)

    def _run(self, context, queries, visible, cache, cache_visible, keep, train):
        """`step` without the head: normed hidden states of the queries [B, Q, D]."""
        num_context = context.shape[1]
        x = jnp.concatenate([context, queries], axis=1)
        x = nn.with_logical_constraint(x, ("batch", "length", "embed_act"))
        rest = (visible, cache_visible, num_context if keep else 0, not train)
        if self.config.layers == "scan":
            x, kept = self.blocks(x, cache, *rest)
        else:
            kept = []
            for block, own in zip(self.blocks, cache or [None] * len(self.blocks), strict=True):
                run = block if self.is_initializing() or train else _once(block)
                x, new = run(x, own, *rest)
                kept.append(new)
            kept = tuple(kept) if keep else None
        return self.norm(x[:, num_context:]), kept

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Hidden states [B, Q, D] -> float32 [B, Q, V]."""
        return self.head(hidden)

    def __call__(
        self,
        codes: jax.Array,
        labels: jax.Array,
        order: jax.Array,
        step_of: jax.Array,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Teacher-forced logits of all tokens, in the order of generation.

        The official code leaves out the context tokens of the last group, which nobody sees. Here
        the last token alone is left out, so that the shape is the same for every schedule.

        Args:
            codes: int32 [B, N] in raster order.
            labels: int32 [B] in 0..num_classes; `num_classes` stands for a dropped label.
            order: int32 [B, N], generation position -> raster index.
            step_of: int32 [N] or [B, N], group number of the i-th generated token.
            train: apply dropout.

        Returns:
            float32 [B, N, V]; entry i is about the token at raster index `order[:, i]`.
        """
        return self.logits(self.hidden(codes, labels, order, step_of, train=train))

    def hidden(self, codes, labels, order, step_of, *, train: bool = False) -> jax.Array:
        """`__call__` up to the head, for those who want logits a few at a time: [B, N, D]."""
        seen = order[:, :-1]
        generated = self.embed_codes(jnp.take_along_axis(codes, seen, axis=1), seen)
        context = jnp.concatenate([self.embed_class(labels), generated], axis=1)
        queries = self.embed_queries(order)
        c = self.config
        visible = training_mask(step_of, c.query_attention, c.context_attention)
        mask = ImageMask(visible, context.shape[1], c.attention, c.attention_split)
        return self._run(context, queries, mask, None, None, False, train)[0]
