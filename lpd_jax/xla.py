"""What XLA must be told before it compiles."""

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

_FUSIONS = "--xla_cpu_experimental_ynn_fusion_type="


def keep_reductions_right(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keeps XLA from handing reductions on CPUs to YNNPACK, unless the user has chosen himself.

    From jaxlib 0.10.2 to 0.12.0 a reduction fused with a product gives wrong numbers, infinities or
    a crash for some shapes (`docs/versions.md`). Products still go to YNNPACK. The environment is
    read when the first device is asked for; later this does nothing.
    """
    flags = environment.get("XLA_FLAGS", "")
    if _FUSIONS not in flags:
        environment["XLA_FLAGS"] = f"{flags} {_FUSIONS}-reduce".strip()


def keep_compiled(environment: Mapping[str, str] = os.environ) -> None:
    """Keeps what is compiled for the next process, in the user's cache directory (XDG).

    Not where jax was told another directory (`JAX_COMPILATION_CACHE_DIR`) or none
    (`JAX_ENABLE_COMPILATION_CACHE=false`), nor where the directory cannot be made. Its entries are
    named by program, compile options, jax version and the features of the device.
    """
    import jax  # which reads what `keep_reductions_right` sets

    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    try:
        home = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        directory = Path(home, "lpd_jax/xla")
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or none to write in
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # Laying out parameters compiles many small programs; together they take a second.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
