"""The images, or cached codes, that the section `data` of a config names."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lpd_jax import distributed
from lpd_jax.errors import InputError

SOURCES = ("digits", "folder", "tfds", "tar", "codes")


def images(
    config: ConfigDict,
    split: str,
    how: ConfigDict | None = None,
    listed: Any = None,
    whole: bool = False,
):
    """The images named by `config.source`, with the next one in place of each that is unreadable.

    Args:
        config: the section `data`.
        split: "train" or "heldout".
        how: the section `reading`; without it, any number of images may be bad.
        listed: local file to which images that cannot be read are added.
        whole: not cropped, [H, W, 3], but for digits.

    Raises:
        InputError: there are none; on access, too many cannot be read.
    """
    from lpd_jax.data import skipping

    found = source(config, split, whole=whole)
    if config.source == "digits":
        return found
    share = 1.0 if how is None else how.bad_share
    return skipping.Readable(found, skipping.Skipped(len(found), share, listed, split))


def source(
    config: ConfigDict,
    split: str,
    num_tokens: int | None = None,
    codebook_size: int | None = None,
    whole: bool = False,
):
    """What `config.source` names, as it lies there: an image that is unreadable is a `BadImage`.

    Args:
        config: the section `data`.
        split: "train" or "heldout".
        num_tokens, codebook_size: of cached codes.
        whole: as of `images`.

    Raises:
        InputError: it is not there, or has no images.
    """
    from lpd_jax.data import folder, sources, tar  # load TFDS, which a check can do without

    size = None if whole else config.size
    match config.source:
        case "digits":
            return sources.Digits(split, config.size)
        case "folder":
            return folder.Folder(config.path, split, size)
        case "tfds":
            return sources.TfdsImages(config.path, split, size)
        case "tar":
            return tar.TarImages(config.path, split, size)
        case "codes" if num_tokens is not None:
            views = 2 if config.flip else 1
            return folder.CachedCodes(config.path, split, views, num_tokens, codebook_size)
        case "codes":
            raise InputError(
                "data.source=codes has codes and no images, which this task needs; bring them in "
                "with encode, and go on with train."
            )
    raise InputError(f"data.source={config.source!r} must be one of {', '.join(SOURCES)}.")


def workers(config: ConfigDict):
    """Who reads images, as the section `reading` says."""
    from lpd_jax.data.reading import Workers

    return Workers(config.reading.processes, config.reading.threads)


def class_names(config: ConfigDict) -> tuple[str, ...] | None:
    """Names of the classes of `config.data`, where they are at hand and quickly listed."""
    if config.data.source == "digits":
        return tuple(map(str, range(10)))
    if config.data.source not in ("folder", "codes") or not config.data.path:
        return None
    from lpd_jax.data import folder

    return folder.folder_classes(config.data.path)


def check_source(config: ConfigDict, spec: Any) -> None:
    """Returns if the codes are still those of the images, or the images are not at hand.

    Args:
        config: its `data` section names the images.
        spec: `CodesSpec` of the codes to train on.

    Raises:
        InputError: a class came or went since they were encoded.
    """
    if config.data.source not in ("folder", "codes"):
        return  # the other sources are not listed quickly
    now, then = distributed.decided(lambda: class_names(config)), spec.class_names
    if now is None or list(now) == list(then):
        return
    new, gone = sorted({*now} - {*then}), sorted({*then} - {*now})
    what = f"{len(new)} came ({', '.join(new[:3])})" if new else ""
    what += " and " * bool(new and gone) + (
        f"{len(gone)} went ({', '.join(gone[:3])})" * bool(gone)
    )
    raise InputError(
        f"the classes in {config.data.path} are not those that were encoded: {what}; encode into "
        "a new --workdir, or put them back as they were."
    )


def labelled_images(config: ConfigDict, split: str, most: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [M, S, S, 3] and labels int [M] of a split of `images`, the readable ones.

    Where there are more than `most` (0: no limit), those that one draw takes, always the same, in
    the order of the source. No others are read.
    """
    source = images(config, split)
    rows = np.arange(len(source))
    if most and len(source) > most:
        rows = np.sort(np.random.default_rng(0).permutation(len(source))[:most])
    found = [source[row] for row in rows.tolist()]
    # What stands for an image that cannot be read has an index of its own.
    records = [record for row, record in zip(rows, found, strict=True) if record["index"] == row]
    return tuple(np.stack([record[name] for record in records]) for name in ("image", "label"))
