"""What XLA must be told before jax starts."""

import os
from collections.abc import MutableMapping

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
