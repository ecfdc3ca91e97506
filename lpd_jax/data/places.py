"""What every source of images asks of its arguments."""

from pathlib import Path

from lpd_jax.errors import InputError

SPLITS = ("train", "heldout", "all")


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")


def check_path(path: str | Path) -> None:
    if not str(path).strip():
        raise InputError(
            "data.path is empty; say where the images are, as in --config.data.path=/data/flowers."
        )
    if "://" in str(path):
        raise InputError(
            f"data.path={path} is not on a local disk, where images are read from; copy it there, "
            "or mount the bucket (Cloud Storage FUSE) and give the path of the mount."
        )
