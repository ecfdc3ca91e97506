"""Task: trains the decoder on codes, with the paper's scheme (section 3.1)."""

import dataclasses
import json
import logging
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import checkpoint, checks, distributed, parallel, storage
from lpd_jax.data import codes as code_dataset
from lpd_jax.data import pipeline
from lpd_jax.data.sources import Arrays
from lpd_jax.errors import InputError
from lpd_jax.metrics import read_rows
from lpd_jax.models.attention import check_kernel
from lpd_jax.models.decoder import Decoder
from lpd_jax.models.initial import init_decoder
from lpd_jax.tasks import build, evaluators, start
from lpd_jax.tasks.workdir import alone, claim, plain, timed, write_json
from lpd_jax.trained import belong, decoder_of, load_decoder
from lpd_jax.training.heldout import mean_and_error
from lpd_jax.training.loop import train as run_training
from lpd_jax.training.objectives import decoder_loss
from lpd_jax.training.optimizer import learning_rate
from lpd_jax.training.step import Part, TrainState
from lpd_jax.training.throughput import decoder_flops
from lpd_jax.viz import plots

_LOG = logging.getLogger(__name__)
# How a step is computed, not what: a run may go on with other devices, and so with other ones.
_HOW = ("accumulate", "loss_chunk", "remat", "attention", "attention_split")
_BEGIN = ("init_from", "fork_from", "fork_step")  # named in the settings if the run began so
_LENGTH = ("steps", "decay_start")  # what may change when a run is lengthened
_NAME = evaluators.PART


def run(
    config: ConfigDict, workdir: storage.Where, codes: storage.Where | None = None
) -> dict[str, float]:
    """Trains (or goes on training) in `workdir/decoder`; returns its figures.

    The codes are those in `workdir/codes`, unless `codes` names another directory. A larger
    `train.steps` than that of the run lengthens it; `train.fork_from` begins with another run's
    checkpoint, codes and tokenizer.
    """
    workdir, section = storage.path(workdir), config.train
    _check(config)
    with alone(workdir / "decoder"):
        if section.fork_from:
            codes = codes or storage.path(section.fork_from) / "codes"
            source = storage.path(section.fork_from)
            start.share_tokenizer(source, workdir, build.mesh(config))
        codes = storage.path(codes or workdir / "codes")
        spec = code_dataset.read_spec(codes)
        build.check_source(config, spec)
        _check_tokenizer(workdir, codes, spec)
        directory = _claim(config, workdir / "decoder", spec)
        network = decoder_of(
            config.decoder,
            grid=spec.grid,
            vocab_size=spec.codebook_size,
            num_classes=len(spec.class_names),
        )
        if not distributed.from_first(_finished(directory, section.steps)):
            with timed(workdir, "train"):
                # The state is gone when this returns: the report loads the model again.
                _train(config, workdir, network, codes, spec)
        with timed(workdir, "train"):
            return _report(config, directory, codes)


def _check(config: ConfigDict) -> None:
    section = config.train
    if not checks.number("train.label_drop", section.label_drop, 0) < 1:
        raise InputError(f"train.label_drop={section.label_drop} must be in [0, 1).")
    if section.init_from and section.fork_from:
        raise InputError(
            "train.init_from begins with parameters and train.fork_from with a whole run; give one."
        )
    platform = build.mesh(config).devices.flat[0].platform
    check_kernel(config.decoder.attention, config.decoder.dtype, platform)
    build.loop(section)
    build.optimizer(section)


def _check_tokenizer(
    workdir: storage.Path, codes: storage.Path, spec: code_dataset.CodesSpec
) -> None:
    """A decoder that cannot be sampled with the tokenizer beside it is not worth hours."""

    def fits() -> bool:
        place = workdir / "tokenizer/model"
        if not (place / "model.json").is_file():
            return True
        beside = checkpoint.read_model_json(place, "tokenizer")
        return belong({"tokenizer": spec.tokenizer["fingerprint"]}, beside)

    if not distributed.decided(fits):
        raise InputError(
            f"the codes in {codes} are of another tokenizer than the one in {workdir}; encode "
            "again, into a workdir of its own or after removing the old codes."
        )


def _claim(
    config: ConfigDict, directory: storage.Path, spec: code_dataset.CodesSpec
) -> storage.Path:
    """The directory as the work of these settings; a run that was shorter is lengthened."""
    section = _without(build.lasting(config.train), _HOW)
    settings = {
        "seed": config.seed,
        "decoder": _without(config.decoder, _HOW),
        "train": section,
        "tokenizer": spec.tokenizer["fingerprint"],
    }
    file = directory / "settings.json"
    found = distributed.from_first(json.loads(file.read_text()) if file.is_file() else {})
    before = found.get("train")
    if before and before["steps"] < section["steps"]:
        old = section | {name: before[name] for name in _LENGTH}
        claim(directory, settings | {"train": old}, config)
        _lengthen(config, directory, found, {name: section[name] for name in _LENGTH})
    return claim(directory, settings, config)


def _lengthen(
    config: ConfigDict, directory: storage.Path, found: dict[str, Any], length: dict[str, int]
) -> None:
    """Writes the new length into the settings of a run that has a checkpoint to go on from."""
    before, model = found["train"], directory / "model/model.json"
    if not distributed.from_first(start.has_checkpoint(directory)):
        if distributed.from_first(model.is_file()):
            raise InputError(
                f"the checkpoints of the run in {directory} are gone, so that it cannot be "
                "lengthened; begin a new one with its parameters (train.init_from)."
            )
    elif jax.process_index() == 0:
        new = build.optimizer(config.train)
        old = dataclasses.replace(new, **{name: before[name] for name in _LENGTH})
        rates = [float(learning_rate(o)(old.steps)) for o in (old, new)]
        _LOG.info(
            "train: lengthened from %d to %d steps; the learning rate at step %d is %.3g by the "
            "schedule of the new length (%.3g by the old one)",
            old.steps, new.steps, old.steps, rates[1], rates[0],
        )  # fmt: skip
    if jax.process_index() == 0:
        if model.is_file():  # says how long it was trained: it is no longer the end of the run
            write_json(model, {"steps": before["steps"]} | json.loads(model.read_text()))
        write_json(directory / "settings.json", found | {"train": before | length})


def _finished(directory: storage.Path, steps: int) -> bool:
    """Whether there is a model that was trained for as long as is asked."""
    file = directory / "model/model.json"
    return file.is_file() and json.loads(file.read_text()).get("steps", steps) >= steps


def _train(
    config: ConfigDict,
    workdir: storage.Path,
    network: Decoder,
    codes: storage.Path,
    spec: code_dataset.CodesSpec,
) -> None:
    """Trains and writes the model."""
    section, mesh, rules = config.train, build.mesh(config), build.rules(config)
    directory = workdir / "decoder"
    _check_batch(config, mesh)
    initial = fork = None
    if not distributed.from_first(start.has_checkpoint(directory)):
        if section.init_from:
            initial = start.from_model(storage.path(section.init_from), network, spec)
        if section.fork_from:
            fork = start.from_run(storage.path(section.fork_from), section.fork_step, section.steps)
    steps_of = build.steps_of(section, network.config.num_tokens)
    batches = pipeline.batches(
        Arrays(code_dataset.load_codes(codes, "train")),
        batch_size=section.batch_size,
        seed=config.seed,
        rows=parallel.process_rows(mesh, section.batch_size),
        transform=pipeline.choose_view,
    )
    part = Part(
        lambda key: init_decoder(network, key),
        decoder_loss(
            network,
            steps_of,
            section.label_drop,
            section.loss_chunk,
            build.training_order(section, network.config.grid),
        ),
        build.optimizer(section),
        section.ema_decay,
        initial=initial,
    )
    state = run_training(
        "train",
        directory,
        {_NAME: part},
        iter(batches),
        fields=("codes", "label"),
        loop=build.loop(section),
        seed=config.seed,
        mesh=mesh,
        rules=rules,
        evaluators=evaluators.of(config, workdir, network, codes, spec),
        fork=fork,
        flops=decoder_flops(network.config),
    )
    _save(config, directory, network, spec, state)


def _save(config, directory, network, spec, state: TrainState) -> None:
    """Writes the model directory."""
    params, ema = state.params[_NAME], state.ema[_NAME]
    about = plain(
        {
            "kind": "decoder",
            "config": dataclasses.asdict(network.config),
            "class_names": spec.class_names,
            "label_drop": config.train.label_drop,
            "tokenizer": spec.tokenizer["fingerprint"],
        }
    )
    about["fingerprint"] = checkpoint.fingerprint(about, params if ema is None else (params, ema))
    about |= plain({"steps": config.train.steps, "sampling": build.sampling_defaults(config)})
    checkpoint.save_model(directory / "model", about, params, ema=ema)


def _check_batch(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    section, ways = config.train, parallel.batch_ways(mesh)
    if section.batch_size % (ways * section.accumulate):
        raise InputError(
            f"train.batch_size={section.batch_size} does not divide into train.accumulate="
            f"{section.accumulate} parts of which each divides among {ways} devices (mesh data x "
            f"fsdp); make it a multiple of {ways * section.accumulate}."
        )


def _without(section: ConfigDict | dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """A section without these fields, and without beginnings that it does not name."""
    unnamed = tuple(name for name in _BEGIN if not section.get(name))
    return {name: value for name, value in section.items() if name not in (*names, *unnamed)}


def _report(config: ConfigDict, directory: storage.Path, codes: storage.Path) -> dict[str, float]:
    """Held-out loss per code for each schedule that training draws from, and the curves."""
    mesh, rules = build.mesh(config), build.rules(config)
    network, params, about = load_decoder(directory / "model", mesh, rules, config.sample.params)
    steps_of = build.steps_of(config.train, network.config.num_tokens)
    losses, figures, words = evaluators.losses(config, network, codes), {}, []
    with parallel.use(mesh, rules):
        for steps, step_of in zip(config.train.schedules, steps_of, strict=True):
            mean, error = mean_and_error(losses(params, step_of[None]))
            figures[f"heldout_loss_{steps}_steps"] = mean
            figures[f"heldout_loss_{steps}_steps_se"] = error
            words.append(f"{mean:.4f} ± {error:.4f} in {steps} steps")
    overall = float(np.mean([figures[f"heldout_loss_{n}_steps"] for n in config.train.schedules]))
    if jax.process_index() == 0:
        write_json(directory / "figures.json", figures)
        rows = [*read_rows(directory), {"step": config.train.steps, "heldout_loss": overall}]
        names = ["loss", "accuracy", "grad_norm", "learning_rate"]
        names += [n for n in ("fid", "inception_score") if any(n in row for row in rows)]
        figure = plots.curves(rows, names)
        plots.save(figure, directory / "curves.png")
    _LOG.info("train: held-out loss (%s parameters) %s", about["params"], ", ".join(words))
    return figures
