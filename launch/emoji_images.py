"""Makes the folder of colour images that `--config=emoji` trains on, from four npm packages.

    mkdir packages && cd packages
    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 \\
        @lobehub/fluent-emoji-3d@1.1.0 openmoji@17.0.0
    cd .. && pip install lpd_jax[emoji]
    python launch/emoji_images.py packages emoji64

Writes emoji64/{train,heldout}/CLASS/CODEPOINTS-STYLE.png, 64x64 RGB on white, and ATTRIBUTION.md
beside them. The class is the emoji's Unicode group, the style one of four sets of drawings. A fixed
eighth of the emoji is held out in all styles, so that no held-out emoji is ever trained on.

The images stay under the licences of the packages, which ATTRIBUTION.md names: whoever passes them
on passes that file on too.
"""

import argparse
import dataclasses
import hashlib
import io
import json
import re
import shutil
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

SIDE, MARGIN = 64, 2  # of an image, in pixels; the margin is white
HELDOUT = 12  # per cent of the emoji
LIKE = 12.0  # two drawings of a style are one below this RMS difference of 32x32 pixels in 0..255
RENDERED = 288  # pixels of an SVG's side before it is scaled down
# A form of another emoji that differs by gender, or looks to the right: too like to be one more.
FORM = re.compile(r"-200d-(2640|2642)-fe0f|^1f46[89]-200d|-200d-27a1-fe0f$")


@dataclasses.dataclass(frozen=True)
class Style:
    """The drawings of one vendor.

    Attributes:
        name: in the names of the files.
        package: what `npm pack` is asked for.
        sha256: of the tarball.
        folder: of the drawings in it.
        without: pattern of code points that are left out.
        licence: of the drawings, and who is to be named.
    """

    name: str
    package: str
    sha256: str
    folder: str
    without: str
    licence: str

    @property
    def tarball(self) -> str:
        """The name that `npm pack` gives the file."""
        name, version = self.package.removeprefix("@").replace("/", "-").rsplit("@", 1)
        return f"{name}-{version}.tgz"


STYLES = (
    Style(
        "noto",
        "emoji-datasource-google@16.0.0",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        "package/img/google/64/",
        "1f1e8-1f1f6",  # Sark, drawn there as another flag
        "Noto Emoji, Copyright Google LLC, github.com/googlefonts/noto-emoji; Apache License 2.0 "
        "(flags: public domain)",
    ),
    Style(
        "twemoji",
        "emoji-datasource-twitter@16.0.0",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        "package/img/twitter/64/",
        "",
        "Twemoji, Copyright Twitter, Inc and other contributors, github.com/jdecked/twemoji; "
        "CC-BY 4.0, creativecommons.org/licenses/by/4.0",
    ),
    Style(
        "fluent",
        "@lobehub/fluent-emoji-3d@1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "package/assets/",
        # What Microsoft's open release lacks, or draws otherwise: flags of nations, couples and
        # families, paperclip, technologist, video game, chequered flag, socks, cap.
        "1f1[ef].-1f1[ef].|1f3f4-e0067-.*|1f46[a-d]|1f48f|1f491|1f9d1-200d-1f91d-.*|1f4ce"
        "|1f9d1-200d-1f4bb|1f3ae|1f3c1|1f9e6|1f9e2",
        "Fluent Emoji, Copyright (c) Microsoft Corporation, github.com/microsoft/fluentui-emoji; "
        "packed by LobeHub, Copyright (c) 2023 LobeHub; MIT License",
    ),
    Style(
        "openmoji",
        "openmoji@17.0.0",
        "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
        "package/color/svg/",
        "",
        "All emojis designed by OpenMoji, the open-source emoji and icon project, openmoji.org; "
        "CC-BY-SA 4.0, creativecommons.org/licenses/by-sa/4.0 (so are the images made of them)",
    ),
)


class Emoji(NamedTuple):
    """An entry of Unicode's list: `code` "1f600" or "1f441-fe0f-200d-...", `group` "objects"."""

    code: str
    group: str

    @property
    def split(self) -> str:
        """By a hash of the code points, which no other version of the list changes."""
        number = int(hashlib.sha256(self.code.encode()).hexdigest(), 16)
        return "heldout" if number % 100 < HELDOUT else "train"


def stop(sentence: str) -> None:
    print(f"emoji_images.py: {sentence}", file=sys.stderr)
    sys.exit(2)


def read_package(directory: Path, style: Style) -> dict[str, bytes]:
    """The drawings of a style by code points, and emoji-data's list as "emoji.json" if it is there.

    Code points lack the variation selector fe0f, which the packages do not all write.
    """
    file = directory / style.tarball
    if not file.is_file():
        stop(f"{directory} lacks {style.tarball}; run there: npm pack {style.package}")
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != style.sha256:
        stop(f"{file} is not the package that was published; run again: npm pack {style.package}")
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in filter(tarfile.TarInfo.isfile, tar):
            if member.name.startswith(style.folder):
                found[plain(Path(member.name).stem)] = tar.extractfile(member).read()
            elif member.name == "package/emoji.json":
                found["emoji.json"] = tar.extractfile(member).read()
    return found


def plain(code: str) -> str:
    return code.lower().replace("-fe0f", "")


def listed(emoji_json: bytes) -> list[Emoji]:
    """The emoji of emoji-data's list in Unicode's order, without components and forms of others."""
    entries = sorted(json.loads(emoji_json), key=lambda entry: entry["sort_order"])
    found = (
        Emoji(entry["unified"].lower(), re.sub(r"\W+", "_", entry["category"]).lower())
        for entry in entries
    )
    return [e for e in found if e.group != "component" and not FORM.search(e.code)]


def rendered(svg: bytes) -> bytes:
    """An SVG as PNG; without fonts, so that it is the same everywhere."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        stop("the drawings of openmoji are SVG; install what renders them: pip install resvg-py")
    side = {"width": RENDERED, "height": RENDERED}
    return bytes(svg_to_bytes(svg_string=svg.decode(), skip_system_fonts=True, **side))


def draw(data: bytes) -> Image.Image:
    """A drawing (PNG, WebP or SVG) as 64x64 RGB on white.

    What is scaled to fill the image is a square about the middle that holds all of the drawing, and
    at least 5/6 of its canvas: small symbols stay small.
    """
    data = rendered(data) if data.lstrip()[:1] == b"<" else data
    art = Image.open(io.BytesIO(data)).convert("RGBA")
    side = max(art.size)
    left, top = (art.width - side) // 2, (art.height - side) // 2
    art = art.crop((left, top, left + side, top + side))
    opaque = art.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    reach = max(abs(edge - side / 2) for edge in opaque or (0, side))
    reach = min(side / 2, max(side / 2 * 5 / 6, reach))
    box = (side / 2 - reach,) * 2 + (side / 2 + reach,) * 2
    white = Image.alpha_composite(Image.new("RGBA", art.size, "white"), art).convert("RGB")
    inner = white.resize((SIDE - 2 * MARGIN,) * 2, Image.Resampling.LANCZOS, box)
    return ImageOps.expand(inner, MARGIN, "white")


def images(directory: Path, styles: Sequence[Style]) -> Iterator[tuple[Emoji, Style, Image.Image]]:
    """Every emoji in every style, without those like one that came before in the same style.

    The first style's package brings the list of the emoji.
    """
    packages = {style: read_package(directory, style) for style in styles}
    kept = defaultdict(list)
    for emoji in listed(packages[styles[0]]["emoji.json"]):
        for style in styles:
            data = packages[style].get(plain(emoji.code))
            if data is None or re.fullmatch(style.without, emoji.code):
                continue
            image = draw(data)
            small = image.resize((32, 32), Image.Resampling.BOX)
            pixels = np.asarray(small, np.float32).ravel()
            like = any(np.mean((pixels - other) ** 2) < LIKE**2 for other in kept[style])
            if pixels.min() <= 240 and not like:  # neither blank
                kept[style].append(pixels)
                yield emoji, style, image


def attribution(styles: Sequence[Style]) -> str:
    """Whose the images are; Markdown."""
    lines = [f"- `*-{style.name}.png`, from {style.package}: {style.licence}" for style in styles]
    return "\n".join(
        [
            "# Whose these images are",
            "",
            "Made by launch/emoji_images.py of lpd_jax from these npm packages. All were changed:",
            "rescaled, put on white, made 64x64 RGB; near-identical ones and some others left out.",
            "Each image stays under the licence of its style:",
            "",
            *lines,
            "",
            "Classes and their names: emoji-data, MIT License, Copyright (c) 2013 Cal Henderson.",
            "",
        ]
    )


def make(directory: Path, out: Path, styles: Sequence[Style] = STYLES) -> int:
    """Writes the folder `out`, whole or not at all; returns how many images it has."""
    if out.exists():
        stop(f"{out} is there already; remove it, or name another folder")
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    count = 0
    for emoji, style, image in images(directory, styles):
        file = partial / emoji.split / emoji.group / f"{emoji.code}-{style.name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file, optimize=True)
        count += 1
        if count % 500 == 0:
            print(f"{count} images", file=sys.stderr)
    (partial / "ATTRIBUTION.md").write_text(attribution(styles))
    partial.rename(out)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("packages", type=Path, help="folder with the four tarballs of npm pack")
    parser.add_argument("out", type=Path, help="folder to make, such as emoji64")
    arguments = parser.parse_args()
    count = make(arguments.packages, arguments.out)
    print(f"{count} images in {arguments.out}; whose they are is in its ATTRIBUTION.md")


if __name__ == "__main__":
    main()
