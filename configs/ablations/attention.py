"""What a group sees of itself, in its queries and then as context; each variant is trained.

    python -m lpd_jax ablate --config=configs/ablations/attention.py --workdir=runs/digits

Queries see each other as published or only themselves as in RandAR, context is bidirectional inside
a group as published or causal. Tokenizer and codes are those of the workdir; 4 x 3 trainings.
"""

from ml_collections import ConfigDict

from lpd_jax.configs.ablations import orders


def get_config() -> ConfigDict:
    """One curve per rule of the context, over the rules of the queries; 8 steps of 8x8 codes."""
    config = orders.get_config()
    config.sample.steps = 8
    config.decoder.query_attention = "group"
    config.decoder.context_attention = "group"
    config.ablation.update(
        name="attention",
        variants=tuple(
            (
                f"{context} context",
                {"decoder.query_attention": queries, "decoder.context_attention": context},
            )
            for context in ("group", "causal")
            for queries in ("group", "independent")
        ),
        x="decoder.query_attention",
        seeds=(0, 1, 2),
        retrain=True,
    )
    return config
