"""Task: a page in the browser: images appear as they are generated, and can be edited.

    python -m lpd_jax demo --config=digits --workdir=runs/digits
    python -m lpd_jax demo --config=lpd_256:L --workdir=runs/l --checkpoint=weights/lpd_l_256

Open the address that it prints. It listens on this machine alone unless `demo.host` says otherwise,
and clicks wait for each other. Needs the extra `demo`: pip install -e '.[demo]'.
"""

import logging

import jax
from ml_collections import ConfigDict

from lpd_jax import config_files, storage
from lpd_jax.demo.snippets import Origin
from lpd_jax.demo.studio import Studio, first_request, warm_up
from lpd_jax.errors import InputError
from lpd_jax.tasks import build

_LOG = logging.getLogger(__name__)


def run(config: ConfigDict, workdir: storage.Where) -> None:
    """Serves the page until Ctrl-C.

    Raises:
        InputError: there are no models, Gradio is not installed, the port is taken, or there are
            several processes.
    """
    if jax.process_count() > 1:
        raise InputError("the demo is one process; start it without --num_processes.")
    try:
        from lpd_jax.demo.page import serve
    except ImportError as error:
        raise InputError(
            f"the demo needs gradio, which cannot be imported ({error}); run "
            "pip install -e '.[demo]'."
        ) from error
    studio = make(config, workdir)
    _LOG.info("demo: %r", studio.sampler)
    _LOG.info("demo: compiling what the first click needs")
    _LOG.info("demo: compiled in %.0f s", warm_up(studio, first_request(studio)))
    if config.demo.host not in ("127.0.0.1", "localhost"):
        _LOG.warning("demo: everyone who reaches %s can use the page", config.demo.host)
    serve(studio, config.demo.host, config.demo.port, config.demo.upload_mb)


def make(config: ConfigDict, workdir: storage.Where) -> Studio:
    """The studio of the models in the workdir, or in `config.checkpoint`.

    Raises:
        InputError: there are none.
    """
    section = config.sample
    loading = {name: section[name] for name in ("dtype", "quantize", "params") if section[name]}
    name = config.demo.config
    plain = config_files.load(name).sample if name else section
    origin = Origin(
        models=str(config.checkpoint or workdir),
        loading=loading,
        config=name,
        workdir=str(workdir),
        checkpoint=str(config.checkpoint),
        fields=plain.to_dict(),
        changed=section.to_dict(),
    )
    return Studio(
        sampler=build.sampler(config, workdir),
        origin=origin,
        most=config.demo.images,
        seconds=config.demo.seconds,
        segments=section.segments,
    )
