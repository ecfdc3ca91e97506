"""A studio of untrained models: 16x16 pixels, 4x4 codes, five classes."""

import jax
import pytest
from flax import linen as nn

from lpd_jax import config_files, parallel
from lpd_jax.demo.snippets import Origin
from lpd_jax.demo.studio import Studio
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.models.initial import init_decoder
from lpd_jax.sampler import Defaults, Sampler


@pytest.fixture(scope="session")
def studio(tokenizer, tokenizer_params):
    decoder = Decoder(
        DecoderConfig(
            grid=(4, 4), vocab_size=32, num_classes=5, width=32, depth=1, heads=2, dropout=0.0
        )
    )
    sampler = Sampler(
        decoder=decoder,
        decoder_params=jax.jit(lambda key: nn.unbox(init_decoder(decoder, key)))(jax.random.key(0)),
        tokenizer=tokenizer,
        tokenizer_params=tokenizer_params,
        class_names=("ant", "bee", "cat", "dog", "elk"),
        guidable=True,
        mesh=parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1]),
        defaults=Defaults(steps=4, guidance=1.5, temperature=0.9, repulsion=1.0),
    )
    fields = config_files.load("digits").sample.to_dict()
    origin = Origin("runs/x", {}, "digits", "runs/x", "", fields, fields)
    return Studio(sampler, origin, most=6)
