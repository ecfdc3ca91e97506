"""Config files: found by path or by the name of a shipped one, run, and set field by field."""

import ast
import difflib
import importlib.util
import inspect
import re
import sys
import traceback
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from lpd_jax import configs
from lpd_jax.configs import base
from lpd_jax.errors import InputError

_SHIPPED = Path(configs.__file__).parent.resolve()
_OPTIONAL = ("sample.guidance",)  # numbers that may be None
OVERRIDE = re.compile(r"--?(no)?config\.(?P<path>[^=]*)")


def shipped() -> list[str]:
    """Names of the configs that come with the package: "digits", "ablations/orders"."""
    files = (file.relative_to(_SHIPPED).with_suffix("") for file in _SHIPPED.rglob("*.py"))
    return sorted(file.as_posix() for file in files if file.name not in ("__init__", "base"))


def find(name: str) -> Path:
    """The file of that path or, where there is none, the shipped config of that name.

    Args:
        name: "mine.py"; "digits", "ablations/orders", "ablations.orders", "configs/digits.py".

    Raises:
        InputError: there is neither.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    short = name.removeprefix("./").removeprefix("configs/").removesuffix(".py").replace(".", "/")
    if short in shipped():
        return _SHIPPED / f"{short}.py"
    nearest = difflib.get_close_matches(short, shipped(), 1, 0.5)
    hint = f"; did you mean {nearest[0]}?" if nearest else "."
    raise InputError(
        f"there is no config {name!r}: no file of that path, and the shipped ones are "
        f"{', '.join(shipped())}{hint}"
    )


def load(choice: str) -> ConfigDict:
    """The config of a file, every field of `base` in it.

    Args:
        choice: what `find` takes, with what its `get_config` takes after a colon: "lpd_256:XL".

    Raises:
        InputError: there is no such file, or it cannot be run, or gives no config.
    """
    name, colon, argument = choice.partition(":")
    path = find(name)
    get_config = getattr(_run(path), "get_config", None)
    if not callable(get_config):
        raise InputError(
            f"{path} has no function get_config; define one that returns a config, such as "
            "lpd_jax.configs.base.get_config() with your changes."
        )
    arguments = (argument,) if colon else ()
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        raise InputError(
            f"{name} is one config and takes no {colon}{argument}; give --config={name}."
            if colon
            else f"{name} is several configs; name one after a colon: --config={name}:NAME."
        ) from error
    try:
        config = get_config(*arguments)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"get_config failed, {_where(error, path)}.") from error
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"get_config of {path} returns {type(config).__name__}, not a ConfigDict; begin with "
            "lpd_jax.configs.base.get_config()."
        )
    with config.unlocked():
        _fill(config, base.get_config())
    return config


def override(config: ConfigDict, arguments: list[str]) -> None:
    """Sets fields in place: ["--config.train.steps=5", "--config.sample.labels=cat,7"].

    Raises:
        InputError: there is no such field, or the value is not of its kind.
    """
    for argument in arguments:
        _check_field(config, OVERRIDE.match(argument)["path"])
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
        values(["lpd", *arguments])
    except (flags.Error, TypeError, ValueError) as error:
        raise InputError(f"{str(error).strip().splitlines()[-1].removeprefix('flag ')}.") from error
    for name, value in values["config"].override_values.items():
        if value is None and name not in _OPTIONAL:
            raise InputError(f"--config.{name}=None must be a number.")


def differences(config: ConfigDict) -> str:
    """A line for each section that differs from `base`, with what does."""

    def text(name: str, value: Any) -> str:
        line = f"{name}={value!r}"
        return line if len(line) <= 80 else f"{line[:77]}..."

    def changed(section: ConfigDict, plain: Any) -> list[str]:
        there = plain if isinstance(plain, ConfigDict) else {}
        return [
            text(name, value)
            for name, value in section.items()
            if not isinstance(value, ConfigDict) and (name not in there or there[name] != value)
        ]

    plain = base.get_config()
    sections = {name: value for name, value in config.items() if isinstance(value, ConfigDict)}
    rows = [("", changed(config, plain))]
    rows += [(f"{name}: ", changed(part, plain.get(name))) for name, part in sections.items()]
    return "\n".join(f"  {name}{', '.join(parts)}" for name, parts in rows if parts)


def _run(path: Path) -> ModuleType:
    loader = SourceFileLoader("config_file", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputError(f"the config file cannot be run, {_where(error, path)}.") from error
    return module


def _where(error: BaseException, path: Path) -> str:
    """File, line and kind of an error: the last line of the config file that had a part in it."""
    if isinstance(error, SyntaxError):
        return f"{error.filename} line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((f for f in reversed(frames) if f.filename == str(path)), frames[-1])
    hint = ""
    if isinstance(error, ModuleNotFoundError) and str(error.name).split(".")[0] == "configs":
        hint = "; the shipped configs are in lpd_jax.configs"
    name = type(error).__name__
    return f"{frame.filename} line {frame.lineno}: {name}: {error}{hint}".removesuffix(".")


def _fill(config: ConfigDict, whole: ConfigDict) -> None:
    """Fields that a config was written without mean those of `base`."""
    for name, value in whole.items():
        if name not in config:
            config[name] = value
        elif isinstance(value, ConfigDict) and isinstance(config[name], ConfigDict):
            _fill(config[name], value)


def _check_field(config: ConfigDict, path: str) -> None:
    holder = config
    for name in path.split("."):
        if not isinstance(holder, ConfigDict) or name not in holder:
            fields = list(holder) if isinstance(holder, ConfigDict) else []
            sections = (part for part, value in config.items() if isinstance(value, ConfigDict))
            elsewhere = [f"{part}.{name}" for part in sections if name in config[part]]
            nearest = difflib.get_close_matches(name, fields, 1)
            hint = "the config file and configs/base.py list its fields."
            if nearest or elsewhere:
                hint = f"did you mean {' or '.join(map(repr, nearest or elsewhere))}?"
            raise InputError(f"the config has no field {name!r}; {hint}")
        holder = holder[name]
    if isinstance(holder, ConfigDict) and len(holder):
        raise InputError(
            f"config.{path} is a section; set its fields one by one: "
            f"--config.{path}.{next(iter(holder))}=VALUE."
        )


class _Items(flags.ArgumentParser):
    """A tuple of numbers and words, quoted or not: "3,7", "(1, 2)", "cat,7", "('a, b', 3)"."""

    def parse(self, argument: Any) -> tuple:
        if not isinstance(argument, str):
            return tuple(argument)
        value = _literal(argument)
        if isinstance(value, list | tuple):
            return tuple(value)
        if not isinstance(value, str) or value != argument:  # a number, or a word in quotes
            return (value,)
        return tuple(_literal(word.strip()) for word in argument.split(",") if word.strip())

    def flag_type(self) -> str:
        return "tuple"


class _Number(flags.FloatParser):
    """A number, or None for none."""

    def convert(self, argument: Any) -> float | None:
        return None if argument == "None" else super().convert(argument)


def _literal(text: str) -> Any:
    """The number, tuple or quoted text that `text` spells; else itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


config_flags.register_flag_parser_for_type(tuple, _Items())
config_flags.register_flag_parser_for_type(float, _Number())
