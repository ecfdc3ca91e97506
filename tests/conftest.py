"""Shared by all tests: eight CPU devices, and the smallest networks that have every part."""

import ctypes
import gc
import os
from importlib import metadata
from pathlib import Path

# Before jax starts: tests of sharding need more devices than a laptop has.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and run little: this takes half off most of them. XLA_FLAGS of your own, such
# as --xla_backend_optimization_level=2, take the place of these: then they see what users get.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    # Later ones do not know this one, and would abort.
    + " --xla_cpu_use_fusion_emitters=false" * metadata.version("jaxlib").startswith("0.10."),
)
# Many tests compile the same programs, in several workers and in processes that they start.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache/jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# NumPy's threads wait for each other in a busy loop, which the other workers pay for.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from lpd_jax import parallel
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.models.initial import init_decoder, init_tokenizer
from lpd_jax.models.tokenizer import Tokenizer, TokenizerConfig

if os.environ["JAX_PLATFORMS"] == "cpu":
    jax.config.update("jax_num_cpu_devices", 8)


# All programs of the suite are several gigabytes a worker.
_MOST_MEMORY = 800 << 20  # bytes


def pytest_collection_finish():
    """What is imported stays: the garbage collector need not go through it in every test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    """Drops what has been compiled when it is much; until then modules share small programs."""
    yield
    if _resident() > _MOST_MEMORY:
        _forget()


@pytest.fixture(scope="module")
def no_programs():
    """For modules that count compiled programs: none of an earlier module is among them."""
    _forget()


def _resident() -> int:
    """Bytes of memory of this process; where the system does not say, more than is allowed."""
    if not (status := Path("/proc/self/statm")).exists():
        return _MOST_MEMORY + 1
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _forget() -> None:
    jax.clear_caches()
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


@pytest.fixture(scope="session")
def decoder():
    """A 4x6 grid of 24 tokens, 32 codes, 5 classes, 2 layers, without dropout."""
    return Decoder(
        DecoderConfig(
            grid=(4, 6), vocab_size=32, num_classes=5, width=32, depth=2, heads=4, dropout=0.0
        )
    )


@pytest.fixture(scope="session")
def decoder_params(decoder):
    """Random parameters, biases and norms included, so that none is 0 or 1 by accident."""
    params = jax.jit(lambda key: nn.unbox(init_decoder(decoder, key)))(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


@pytest.fixture(scope="session")
def tokenizer():
    """Stride 4, 32 codes."""
    return Tokenizer(
        TokenizerConfig(
            ch=8,
            ch_mult=(1, 1, 2),
            num_res_blocks=1,
            z_channels=16,
            codebook_size=32,
            norm_groups=4,
        )
    )


@pytest.fixture(scope="session")
def tokenizer_params(tokenizer):
    return jax.jit(lambda key: init_tokenizer(tokenizer, key))(jax.random.key(2))


@pytest.fixture
def one_device_mesh():
    return parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1])


@pytest.fixture
def batch(decoder):
    """codes, labels and orders of three images."""
    n = decoder.config.num_tokens
    keys = jax.random.split(jax.random.key(3), 3)
    codes = jax.random.randint(jax.random.key(4), (3, n), 0, decoder.config.vocab_size)
    orders = jax.vmap(lambda k: jax.random.permutation(k, n))(keys)
    return codes, jnp.array([0, 4, 5]), orders
