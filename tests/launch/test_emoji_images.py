"""The folder of emoji, made from tiny packages of our own."""

import dataclasses
import hashlib
import importlib.util
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lpd_jax.data.folder import Folder

FILE = Path(__file__).parents[2] / "launch/emoji_images.py"
SPEC = importlib.util.spec_from_file_location("emoji_images", FILE)
emoji_images = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(emoji_images)

RED, GREEN, BLUE = (230, 0, 0, 255), (0, 150, 0, 255), (0, 0, 230, 255)
LIST = [  # code points, group; out of order, as the package has them
    ("1F600", "Smileys & Emotion", 1),
    ("1F468-200D-1F692", "People & Body", 4),  # a form of the next one
    ("1F9D1-200D-1F692", "People & Body", 3),
    ("2764-FE0F", "Smileys & Emotion", 2),
    ("1F3FB", "Component", 5),
    ("1F601", "Smileys & Emotion", 6),
    ("1F602", "Smileys & Emotion", 7),
]
PUBLISHED = {
    "00ae-fe0f": "heldout",
    "1f192": "heldout",
    "1f1e6-1f1ff": "heldout",
    "1f1e6-1f1f6": "train",
    "1f1e7-1f1e6": "train",
    "1f1e7-1f1e7": "train",
}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">{}</svg>'


def picture(color, box, size=64, kind="PNG"):
    """A rectangle on a transparent canvas, as the bytes of a file."""
    art = Image.new("RGBA", (size, size))
    art.paste(color, box)
    buffer = io.BytesIO()
    art.save(buffer, kind, lossless=True)
    return buffer.getvalue()


def package(where, style, files):
    """Writes a tarball, and returns the style with its digest."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (where / style.tarball).write_bytes(buffer.getvalue())
    return dataclasses.replace(style, sha256=hashlib.sha256(buffer.getvalue()).hexdigest())


@pytest.fixture
def two_styles(tmp_path):
    """noto, with the list, and fluent, which are no SVG."""
    names = ("unified", "category", "sort_order")
    listed = json.dumps([dict(zip(names, entry, strict=True)) for entry in LIST]).encode()
    noto, fluent = emoji_images.STYLES[0], emoji_images.STYLES[2]
    whole, small = (2, 2, 62, 62), (28, 28, 36, 36)
    google = {
        "package/emoji.json": listed,
        "package/README.md": b"no picture",
        f"{noto.folder}1f600.png": picture(RED, whole),
        f"{noto.folder}2764-fe0f.png": picture(BLUE, small),
        f"{noto.folder}1f9d1-200d-1f692.png": picture(GREEN, whole),
        f"{noto.folder}1f468-200d-1f692.png": picture(BLUE, whole),
        f"{noto.folder}1f3fb.png": picture(BLUE, whole),
        f"{noto.folder}1f601.png": picture((225, 0, 0, 255), whole),  # like 1f600
        f"{noto.folder}1f602.png": picture((255, 255, 255, 255), whole),  # blank
    }
    # Without the selector fe0f, in another size, and with a drawing that is not open.
    open_ = picture(BLUE, (0, 0, 256, 256), 256, "WEBP")
    other = {f"{fluent.folder}2764.webp": open_, f"{fluent.folder}1f9e6.webp": open_}
    return [package(tmp_path, noto, google), package(tmp_path, fluent, other)]


def made(out):
    return sorted(str(file.relative_to(out)) for file in out.rglob("*.png"))


def test_the_folder_has_each_emoji_once_a_style(tmp_path, two_styles):
    assert emoji_images.make(tmp_path, tmp_path / "emoji", two_styles) == 4
    splits = {code: emoji_images.Emoji(code, "").split for code in ("1f600", "2764-fe0f")}
    people = emoji_images.Emoji("1f9d1-200d-1f692", "").split
    assert made(tmp_path / "emoji") == sorted(
        [
            f"{splits['1f600']}/smileys_emotion/1f600-noto.png",
            f"{splits['2764-fe0f']}/smileys_emotion/2764-fe0f-noto.png",
            f"{splits['2764-fe0f']}/smileys_emotion/2764-fe0f-fluent.png",
            f"{people}/people_body/1f9d1-200d-1f692-noto.png",
        ]
    )
    text = (tmp_path / "emoji/ATTRIBUTION.md").read_text()
    assert "Copyright Google LLC" in text and "Copyright (c) Microsoft" in text
    assert "OpenMoji" not in text
    assert not (tmp_path / "emoji.partial").exists()


def test_drawings_fill_the_image_and_small_symbols_stay_small(tmp_path, two_styles):
    emoji_images.make(tmp_path, tmp_path / "emoji", two_styles)

    def array(name):
        (file,) = (tmp_path / "emoji").rglob(name)
        image = Image.open(file)
        assert (image.mode, image.size) == ("RGB", (64, 64))
        return np.asarray(image).astype(int)

    full = array("2764-fe0f-fluent.png")
    assert (full[2:62, 2:62] == BLUE[:3]).all()
    full[2:62, 2:62] = 255
    assert (full == 255).all()  # the margin
    ink = (1 - array("2764-fe0f-noto.png").min(-1) / 255).sum()
    assert ink == pytest.approx((8 * 60 / 64 * 6 / 5) ** 2, rel=0.01)  # scaled by 6/5 at most


def test_the_held_out_are_an_eighth_of_the_emoji_and_the_same_in_every_style():
    codes = [f"{number:x}" for number in range(0x1F300, 0x1F700)]
    held = [emoji_images.Emoji(code, "").split == "heldout" for code in codes]
    assert 0.09 < np.mean(held) < 0.15
    # Of the published set: a change of the rule would move emoji between the splits.
    splits = {code: emoji_images.Emoji(code, "").split for code in PUBLISHED}
    assert splits == PUBLISHED


def test_what_it_makes_is_a_folder_of_ours(tmp_path, two_styles):
    emoji_images.make(tmp_path, tmp_path / "emoji", two_styles)
    # Four emoji do not fill two splits.
    for split in ("train", "heldout"):
        for group in ("smileys_emotion", "people_body"):
            directory = tmp_path / "emoji" / split / group
            directory.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64)).save(directory / f"filler-{split}.png")
    source = Folder(tmp_path / "emoji", "all", 64)
    assert source.class_names == ("people_body", "smileys_emotion") and len(source) == 8


def test_svg_is_rendered(tmp_path, two_styles):
    pytest.importorskip("resvg_py", reason="needs resvg-py: pip install lpd_jax[emoji]")
    svg = SVG.format('<rect x="0" y="0" width="72" height="72" fill="#0000e6"/>').encode()
    style = emoji_images.STYLES[3]
    style = package(tmp_path, style, {f"{style.folder}2764-FE0F.svg": svg})
    emoji_images.make(tmp_path, tmp_path / "emoji", [*two_styles, style])
    (file,) = (tmp_path / "emoji").rglob("2764-fe0f-openmoji.png")
    assert (np.asarray(Image.open(file))[2:62, 2:62] == BLUE[:3]).all()


def test_a_package_that_is_absent_or_another_is_named(tmp_path, two_styles, capsys):
    def says(text, styles):
        with pytest.raises(SystemExit):
            emoji_images.make(tmp_path, tmp_path / "emoji", styles)
        assert text in capsys.readouterr().err
        assert not (tmp_path / "emoji").exists()

    twemoji = emoji_images.STYLES[1]
    says("npm pack emoji-datasource-twitter@16.0.0", [*two_styles, twemoji])
    (tmp_path / twemoji.tarball).write_bytes(b"another")
    says("is not the package that was published", [*two_styles, twemoji])


def test_a_folder_that_is_there_is_left_alone(tmp_path, two_styles, capsys):
    (tmp_path / "emoji").mkdir()
    with pytest.raises(SystemExit):
        emoji_images.make(tmp_path, tmp_path / "emoji", two_styles)
    assert "is there already" in capsys.readouterr().err


def test_the_tarballs_have_the_names_that_npm_gives():
    assert [style.tarball for style in emoji_images.STYLES] == [
        "emoji-datasource-google-16.0.0.tgz",
        "emoji-datasource-twitter-16.0.0.tgz",
        "lobehub-fluent-emoji-3d-1.1.0.tgz",
        "openmoji-17.0.0.tgz",
    ]
