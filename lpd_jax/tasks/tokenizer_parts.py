"""What is trained when a tokenizer is: from the config to parts and constants of the loop."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from lpd_jax import checkpoint, checks, distributed, parallel, storage
from lpd_jax.errors import InputError
from lpd_jax.models.discriminator import Discriminator, DiscriminatorConfig, init_discriminator
from lpd_jax.models.initial import init_tokenizer
from lpd_jax.models.tokenizer import Tokenizer, TokenizerConfig
from lpd_jax.tasks import build
from lpd_jax.training import adversarial, codebook, reconstruction
from lpd_jax.training.adversarial import DISCRIMINATOR, TOKENIZER
from lpd_jax.training.optimizer import OptimizerConfig
from lpd_jax.training.step import Part, Parts

_LOG = logging.getLogger(__name__)
MODULES = ("encoder", "to_code", "quantizer", "from_code", "decoder")  # of a tokenizer
_TO_CODES = MODULES[:3]  # what decides the codes of an image
_LEAST_LPIPS = 16  # pixels a side that VGG16 takes
# Of a tokenizer to begin with these may differ: they shape the loss, not the network.
_OF_THE_LOSS = ("commitment", "entropy", "entropy_temperature", "dtype")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The sections `train_tokenizer`, `tokenizer_loss` and `discriminator`, typed and checked.

    Attributes:
        optimizer: of the tokenizer.
        ema_decay: of the average of its parameters.
        fixed: its modules that are not trained.
        loss: of the reconstruction.
        restart: of dead codes, if any.
        adversary: the discriminator, if any.
        opposing: the optimizer of the discriminator.
    """

    optimizer: OptimizerConfig
    ema_decay: float
    fixed: tuple[str, ...]
    loss: reconstruction.ReconstructionConfig
    restart: codebook.Restart | None
    adversary: adversarial.Adversary | None
    opposing: OptimizerConfig | None

    @property
    def keeps_codes(self) -> bool:
        """Whether images keep the codes that they have before training."""
        return {*_TO_CODES} <= {*self.fixed}


def plan(config: ConfigDict) -> Plan:
    """What the config asks for.

    Raises:
        InputError: a name, a number or a combination that cannot be.
    """
    section, chosen = config.train_tokenizer, config.tokenizer_loss
    with _in("train_tokenizer"):
        optimizer = build.optimizer(section)
    if not 0 <= checks.number("train_tokenizer.ema_decay", section.ema_decay) < 1:
        raise InputError(f"train_tokenizer.ema_decay={section.ema_decay} must be in [0, 1).")
    if section.random_crop != 0:
        checks.number("train_tokenizer.random_crop", section.random_crop, 0.1, 1)
    fixed = _fixed(section)
    if chosen.lpips and config.data.size < _LEAST_LPIPS:
        raise InputError(
            f"tokenizer_loss.lpips needs images of at least {_LEAST_LPIPS} pixels a side, and "
            f"data.size={config.data.size}; leave it empty."
        )
    if chosen.lpips_dtype not in ("float32", "bfloat16"):
        raise InputError(
            f"tokenizer_loss.lpips_dtype={chosen.lpips_dtype!r} must be 'float32' or 'bfloat16'."
        )
    if section.fid_every and not (chosen.lpips or config.evaluate.inception):
        raise InputError(
            f"train_tokenizer.fid_every={section.fid_every} needs a network to compare images by: "
            "give its weights with evaluate.inception, or those of tokenizer_loss.lpips."
        )
    restart = codebook.Restart(chosen.restart_every, chosen.restart_below, chosen.restart_decay)
    if restart.every and "quantizer" in fixed:
        raise InputError(
            f"tokenizer_loss.restart_every={restart.every} places codes anew, and "
            "train_tokenizer.train_only leaves the quantizer as it is; set it to 0."
        )
    adversary, opposing = _adversary(config)
    return Plan(
        optimizer=optimizer,
        ema_decay=section.ema_decay,
        fixed=fixed,
        loss=reconstruction.ReconstructionConfig(
            chosen.pixels, chosen.pixel_weight, chosen.perceptual_weight
        ),
        restart=restart if restart.every else None,
        adversary=adversary,
        opposing=opposing,
    )


def _fixed(section: ConfigDict) -> tuple[str, ...]:
    """Modules that are not trained."""
    only = section.train_only
    only = (only,) if isinstance(only, str) and only else tuple(only)
    for name in only:
        if name not in MODULES:
            raise InputError(
                f"train_tokenizer.train_only names {name!r}; the parts of a tokenizer are "
                f"{', '.join(MODULES)}."
            )
    if only and not section.init_from:
        raise InputError(
            f"train_tokenizer.train_only={','.join(only)} leaves the rest as it is, which would be "
            "as it was drawn; give a trained tokenizer with train_tokenizer.init_from."
        )
    return tuple(name for name in MODULES if only and name not in only)


def _adversary(
    config: ConfigDict,
) -> tuple[adversarial.Adversary | None, OptimizerConfig | None]:
    section, steps = config.discriminator, config.train_tokenizer.steps
    fields = (field.name for field in dataclasses.fields(adversarial.AdversarialConfig))
    chosen = adversarial.AdversarialConfig(**{name: section[name] for name in fields})
    sizes = (field.name for field in dataclasses.fields(DiscriminatorConfig))
    network = Discriminator(DiscriminatorConfig(**{name: section[name] for name in sizes}))
    with _in("discriminator"):
        own = {"steps": max(1, steps - chosen.start)}  # that it moves in
        optimizer = build.optimizer(ConfigDict(section.to_dict() | own))
    if not chosen.weight:
        if section.init_from:
            raise InputError(
                f"discriminator.init_from={section.init_from} begins with a discriminator, and "
                "discriminator.weight=0 says that there is none; give it a weight, such as 0.5."
            )
        return None, None
    if chosen.start >= steps:
        raise InputError(
            f"discriminator.start={chosen.start} is not before the end, "
            f"train_tokenizer.steps={steps}: it would never begin. Lower it, or set "
            "discriminator.weight=0."
        )
    if config.data.size < network.config.least_side:
        raise InputError(
            f"discriminator.layers={network.config.layers} needs images of at least "
            f"{network.config.least_side} pixels a side, and data.size={config.data.size}; lower "
            "discriminator.layers."
        )
    return adversarial.Adversary(network, chosen), optimizer


def settings(config: ConfigDict, lpips_hash: str) -> dict[str, Any]:
    """The sections that decide what is learned; weights of LPIPS count by their hash."""
    rhythm = ("eval_images",)
    section = {k: v for k, v in build.lasting(config.train_tokenizer).items() if k not in rhythm}
    return {
        "train_tokenizer": section,
        "tokenizer_loss": config.tokenizer_loss.to_dict() | {"lpips": lpips_hash},
        "discriminator": config.discriminator.to_dict(),
    }


def parts(
    plan: Plan,
    network: Tokenizer,
    config: ConfigDict,
    mesh: jax.sharding.Mesh,
    perceptual: reconstruction.Perceptual | None,
    begun: bool,
) -> Parts:
    """What the loop trains: the tokenizer, and its discriminator if there is one.

    Args:
        plan: of the config.
        network: the tokenizer.
        config: for the rules of the mesh, and where to begin.
        mesh: over which parameters are cut, as those of the decoder.
        perceptual: distance of images, if any.
        begun: whether there is a checkpoint to go on from: then nothing else is read.
    """
    rules, restart, adversary = build.rules(config), plan.restart, plan.adversary
    initial = first = None
    if config.train_tokenizer.init_from and not begun:
        initial = from_tokenizer(config.train_tokenizer.init_from, network, bool(restart))
    if adversary and config.discriminator.init_from and not begun:
        first = from_discriminator(config.discriminator.init_from, adversary)

    def init(key):
        params = parallel.boxed(init_tokenizer(network, key), mesh, rules)
        return codebook.with_usage(params) if restart else params

    found = {
        TOKENIZER: Part(
            init,
            reconstruction.tokenizer_loss(network, plan.loss, perceptual, adversary, restart),
            plan.optimizer,
            plan.ema_decay,
            initial=initial,
            fixed=plan.fixed + ((codebook.USAGE,) if restart else ()),
            after=codebook.restarts(restart) if restart else None,
        )
    }
    if adversary is None:
        return found
    chosen, averages = adversary.config, bool(adversary.config.lecam)

    def init_opposing(key):
        channels = network.config.in_channels
        params = init_discriminator(adversary.network, key, channels)
        params = parallel.boxed(params, mesh, rules)
        return adversarial.with_averages(params) if averages else params

    found[DISCRIMINATOR] = Part(
        init_opposing,
        adversarial.discriminator_loss(adversary.network, chosen),
        plan.opposing,
        start=chosen.start,
        initial=first,
        fixed=(adversarial.LECAM,) if averages else (),
        after=adversarial.follow(chosen.lecam_decay) if averages else None,
    )
    return found


def describe(plan: Plan, config: ConfigDict, lpips: str) -> str:
    """One sentence on what is minimised, for the log; `lpips` names weights, if any."""
    words = [f"{plan.loss.pixel_weight:g} x {plan.loss.pixels} of pixels"]
    off = []
    if lpips:
        words.append(f"{plan.loss.perceptual_weight:g} x LPIPS ({lpips})")
    else:
        off.append("LPIPS is off (tokenizer_loss.lpips names no weights)")
    if plan.adversary:
        chosen = plan.adversary.config
        how = " x the ratio of gradients" * chosen.adaptive
        words.append(f"from step {chosen.start} on {chosen.weight:g}{how} x {chosen.loss} loss")
    else:
        off.append("there is no discriminator (discriminator.weight=0)")
    if plan.fixed:
        off.append(f"{', '.join(plan.fixed)} stay as they are")
    return "; ".join([f"minimises {' + '.join(words)} + the quantiser's losses", *off])


def source_of(path: storage.Where, kind: str = TOKENIZER) -> tuple[storage.Path, dict[str, Any]]:
    """Directory and `model.json` of what training left: at a workdir, or at a directory of its own.

    Args:
        path: of either.
        kind: "tokenizer" or "discriminator".

    Raises:
        InputError: there is none.
    """
    place, inside = storage.path(path), "model" if kind == TOKENIZER else kind
    places = (place / "tokenizer" / inside, place / inside, place)

    def find() -> list[Any]:
        found = next((p for p in places if (p / "model.json").is_file()), places[0])
        return [str(found), checkpoint.read_model_json(found, kind)]

    found, about = distributed.decided(find)
    return storage.path(found), about


def from_tokenizer(path: storage.Where, network: Tokenizer, usage: bool) -> Callable[[Any], Any]:
    """Loader of the parameters of a tokenizer to begin with, for `Part.initial`.

    Args:
        path: as in `source_of`.
        network: what is to be trained.
        usage: whether the shares of the codes are beside the parameters.

    Raises:
        InputError: there is none, or it is of another shape.
    """
    place, about = source_of(path)
    theirs = dataclasses.asdict(TokenizerConfig(**about["config"]))
    mend = "Change the tokenizer section, or train_tokenizer.init_from."
    _check_alike(theirs, network.config, _OF_THE_LOSS, f"tokenizer in {place}", mend)

    def load(abstract):
        params = _load(place, abstract, codebook.USAGE)
        _LOG.info("train_tokenizer: starting from the parameters in %s", place)
        return codebook.with_usage(params) if usage else params

    return load


def from_discriminator(
    path: storage.Where, adversary: adversarial.Adversary
) -> Callable[[Any], Any]:
    """Loader of the discriminator that a tokenizer was trained with, for `Part.initial`.

    Raises:
        InputError: there is none, or it is of another shape.
    """
    place, about = source_of(path, DISCRIMINATOR)
    mend = "Change the discriminator section, or leave discriminator.init_from empty."
    ours, what = adversary.network.config, f"discriminator in {place}"
    _check_alike(about["config"], ours, ("dtype",), what, mend)

    def load(abstract):
        params = _load(place, abstract, adversarial.LECAM)
        _LOG.info("train_tokenizer: starting with the discriminator in %s", place)
        return adversarial.with_averages(params) if adversary.config.lecam else params

    return load


def _check_alike(
    theirs: Mapping[str, Any], ours: Any, free: tuple[str, ...], what: str, mend: str
) -> None:
    """Returns if the fields of two networks are equal, but for those that are `free`.

    Raises:
        InputError: they differ; it names `what` and ends with `mend`.
    """
    different = [
        f"{name} is {theirs[name]}, not {value}"
        for name, value in dataclasses.asdict(ours).items()
        if theirs[name] != value and name not in free
    ]
    if different:
        raise InputError(f"the {what} cannot initialise this one: {'; '.join(different)}. {mend}")


def _load(place: storage.Path, abstract: Any, without: str) -> Any:
    """Parameters of a model directory, which has everything but `without`."""
    own = {name: tree for name, tree in abstract.items() if name != without}
    return checkpoint.load_params(place, own, jax.tree.map(lambda x: x.sharding, own))


def of_network(params: Any) -> Any:
    """Parameters of the network alone, without what training carries beside them."""
    beside = (codebook.USAGE, adversarial.LECAM)
    return {name: tree for name, tree in params.items() if name not in beside}


@contextlib.contextmanager
def _in(section: str) -> Iterator[None]:
    """Says which section a sentence is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{section}: {error}") from error
