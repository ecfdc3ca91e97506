"""What a source of images held when it was begun to encode: noted beside the codes.

`manifest.json` has, of each split, the number of images and of files, their bytes and the SHA-256
of the list; `manifest-SPLIT.jsonl.gz` is the list itself, one `[name, bytes]` a line in the order
of the records. The list decides which image has which place among the codes, so that nothing moves
when a file goes.
"""

import gzip
import hashlib
import io
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from lpd_jax import storage

FILE = "manifest.json"


class Listing(NamedTuple):
    """Files of a split, in order.

    Attributes:
        names: relative to the source.
        sizes: bytes of each; -1 where it cannot be told.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def text(self) -> str:
        """JSON lines."""
        return "".join(f"{json.dumps(pair)}\n" for pair in zip(*self, strict=True))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text().encode()).hexdigest()


class Manifest(NamedTuple):
    """What a source held.

    Attributes:
        class_names: what the labels mean.
        images: split -> number of records.
        listings: split -> files.
    """

    class_names: tuple[str, ...]
    images: Mapping[str, int]
    listings: Mapping[str, Listing]


def listing(files: Sequence[Path], root: Path = Path()) -> Listing:
    """Of files below `root`, by their names there; asks many at once, as network disks are slow."""
    with ThreadPoolExecutor(16) as pool:
        sizes = pool.map(_size, files, chunksize=256)
        return Listing(tuple(file.relative_to(root).as_posix() for file in files), tuple(sizes))


def of(sources: Mapping[str, Any]) -> Manifest:
    """Of a source's splits, by their names."""
    return Manifest(
        next(iter(sources.values())).class_names,
        {split: len(source) for split, source in sources.items()},
        {split: source.listing() for split, source in sources.items()},
    )


def write(directory: storage.Path, manifest: Manifest) -> None:
    """Notes it; `manifest.json` appears last."""
    about: dict[str, Any] = {"class_names": manifest.class_names, "splits": {}}
    for split, found in manifest.listings.items():
        with storage.whole(directory / f"manifest-{split}.jsonl.gz") as file:
            file.write_bytes(gzip.compress(found.text().encode(), 6, mtime=0))
        about["splits"][split] = {
            "images": manifest.images[split],
            "files": len(found.names),
            "bytes": sum(size for size in found.sizes if size > 0),
            "sha256": found.sha256,
        }
    storage.write_text(directory / FILE, json.dumps(about, indent=1) + "\n")


def read(directory: storage.Path) -> Manifest | None:
    """The one that is noted; None where there is none."""
    if not (directory / FILE).is_file():
        return None
    about = json.loads((directory / FILE).read_text())
    listings = {}
    for split in about["splits"]:
        with storage.local(directory / f"manifest-{split}.jsonl.gz") as file:
            lines = gzip.decompress(file.read_bytes()).decode()
        pairs = [json.loads(line) for line in io.StringIO(lines)]
        listings[split] = Listing(tuple(name for name, _ in pairs), tuple(n for _, n in pairs))
    images = {split: row["images"] for split, row in about["splits"].items()}
    return Manifest(tuple(about["class_names"]), images, listings)


def changes(then: Manifest, now: Manifest, forgiven: Collection[str] = ()) -> str:
    """What came, went and changed, in some words; empty when nothing did.

    The splits count as one: where they are carved by name, a file that goes moves others.

    Args:
        then, now: of the same source.
        forgiven: names of files that may go or change.
    """
    before, after = _sizes(then), _sizes(now)
    parts = []
    for what, names in (
        ("class{es} came", set(now.class_names) - set(then.class_names)),
        ("class{es} went", set(then.class_names) - set(now.class_names)),
        ("file{s} came", after.keys() - before.keys()),
        ("file{s} went", before.keys() - after.keys() - set(forgiven)),
        (
            "file{s} changed",
            {n for n in before.keys() & after.keys() - set(forgiven) if before[n] != after[n]},
        ),
    ):
        if names:
            word = what.format(s="s" * (len(names) > 1), es="es" * (len(names) > 1))
            first = ", ".join(sorted(names)[:3]) + ", ..." * (len(names) > 3)
            parts.append(f"{len(names):,} {word} ({first})")
    if not parts and sum(then.images.values()) != sum(now.images.values()) and not forgiven:
        were, are = (f"{sum(m.images.values()):,}" for m in (then, now))
        parts.append(f"there were {were} images and are {are}")
    return "; ".join(parts)


def _sizes(manifest: Manifest) -> dict[str, int]:
    pairs: Iterable = (zip(*found, strict=True) for found in manifest.listings.values())
    return {name: size for split in pairs for name, size in split}


def _size(file: Path) -> int:
    try:
        return os.path.getsize(file)
    except OSError:
        return -1
