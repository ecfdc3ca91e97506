"""What is decoded is what a viewer shows on white, whatever the format of the file."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from lpd_jax.data.image_files import UPRIGHT, BadImage, read_image
from lpd_jax.errors import InputError

# Different along both axes and in each channel: a wrong turn or a lost channel shows.
ROW, COLUMN = np.mgrid[0:12, 0:20]
COLOUR = np.stack([20 * ROW, 12 * COLUMN, 255 - 10 * ROW - 7 * COLUMN], -1).astype(np.uint8)
GREY = (20 * ROW + 1.5 * COLUMN).astype(np.uint8)


def file(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    stream.seek(0)
    return stream


def shown(stream):
    image = read_image(stream, "a picture")
    assert image.mode == "RGB"
    return np.asarray(image)


def tiff(levels, *, big_endian=False, white_is_zero=False):
    """A baseline TIFF of unsigned integers [H, W], of the kinds that Pillow cannot write."""
    mark = ">" if big_endian else "<"
    data = levels.astype(levels.dtype.newbyteorder(mark)).tobytes()
    height, width = levels.shape
    tags = {256: width, 257: height, 258: 8 * levels.itemsize, 259: 1}
    tags |= {262: 1 - white_is_zero, 273: 8, 277: 1, 278: height, 279: len(data)}
    head = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(mark + "I", 8 + len(data))
    entries = [struct.pack(mark + "HHII", tag, 4, 1, value) for tag, value in tags.items()]
    table = struct.pack(mark + "H", len(tags)) + b"".join(entries) + bytes(4)
    return io.BytesIO(head + data + table)


SIXTEEN = GREY.astype(np.uint16) * 257 + 100
DEEP_GREY = {
    "png": lambda: file(Image.fromarray(SIXTEEN)),
    "pgm": lambda: file(Image.fromarray(SIXTEEN), "PPM"),
    "tiff": lambda: file(Image.fromarray(SIXTEEN), "TIFF"),
    "big-endian": lambda: tiff(SIXTEEN, big_endian=True),
    "white-is-zero": lambda: tiff(65535 - SIXTEEN, white_is_zero=True),
    "32-bit": lambda: tiff(SIXTEEN.astype(np.uint32)),
    "float": lambda: file(Image.fromarray((SIXTEEN / 65535).astype(np.float32)), "TIFF"),
    "float-255": lambda: file(Image.fromarray((SIXTEEN / 257).astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("kind", DEEP_GREY)
def test_deep_grey_is_scaled_to_eight_bits(kind):
    expected = np.rint(SIXTEEN / 257).astype(np.uint8)
    np.testing.assert_array_equal(shown(DEEP_GREY[kind]()), expected[..., None].repeat(3, -1))


def test_the_transparent_level_of_deep_grey_is_white():
    stream = file(Image.fromarray(SIXTEEN), transparency=int(SIXTEEN[3, 5]))
    found = shown(stream)
    assert (found[3, 5] == 255).all() and (found[3, 6] < 200).all()


@pytest.mark.parametrize(
    ("levels", "says"),
    [
        (np.full((2, 2), 70_000, np.uint32), "from 70000 to 70000, and 65535 is white"),
        (np.full((2, 2), 300, np.float32), "from 300 to 300"),
        (np.full((2, 2), np.nan, np.float32), "from nan to nan"),
    ],
)
def test_levels_without_a_known_white_are_refused(levels, says):
    stream = tiff(levels) if levels.dtype == np.uint32 else file(Image.fromarray(levels), "TIFF")
    with pytest.raises(InputError, match=f"^a picture cannot be read as an image .*{says}"):
        read_image(stream, "a picture")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, *UPRIGHT])
def test_exif_turns_the_picture_upright(kind, orientation):
    stored = Image.fromarray(COLOUR)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = file(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(stream) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    found = shown(stream)
    np.testing.assert_array_equal(found, expected)
    assert found.shape == ((12, 20, 3) if orientation < 5 else (20, 12, 3))


def test_exif_turns_deep_grey_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    found = shown(file(Image.fromarray(SIXTEEN), exif=exif))
    np.testing.assert_array_equal(found[..., 0], np.rot90(np.rint(SIXTEEN / 257), -1))


def test_damaged_exif_costs_nothing():
    stream = file(Image.fromarray(COLOUR), exif=b"Exif\0\0XX\0*\0\0\0\x08 no exif at all")
    np.testing.assert_array_equal(shown(stream), COLOUR)


ALPHA = np.where(ROW % 3 == 0, 0, np.where(ROW % 3 == 1, 102, 255))


def over_white(pixels):
    return 255 + (pixels.astype(float) - 255) * (ALPHA[..., None] / 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_lies_over_white(mode, kind):
    pixels = COLOUR if mode == "RGBA" else GREY[..., None].repeat(3, -1)
    image = Image.fromarray(pixels).convert(mode)
    image.putalpha(Image.fromarray(ALPHA.astype(np.uint8)))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = shown(file(image, kind, **options))
    np.testing.assert_allclose(found, over_white(pixels), atol=1)
    assert (found[ALPHA == 0] == 255).all()
    np.testing.assert_array_equal(found[ALPHA == 255], pixels[ALPHA == 255])


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_the_transparent_colour_of_a_palette_is_white(kind):
    image = Image.fromarray((COLUMN % 4).astype(np.uint8)).convert("P")
    image.putpalette([200, 0, 0, 0, 150, 0, 0, 0, 100, 9, 9, 9])
    found = shown(file(image, kind, transparency=2))
    colours = np.array([[200, 0, 0], [0, 150, 0], [255, 255, 255], [9, 9, 9]])
    np.testing.assert_array_equal(found, colours[COLUMN % 4])


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_a_transparent_colour_without_a_palette_is_white(mode):
    image = Image.fromarray(COLOUR).convert(mode)
    plain = np.asarray(image.convert("RGB"))
    key = image.getpixel((7, 5))
    expected = np.where((plain == plain[5, 7]).all(-1, keepdims=True), 255, plain)
    np.testing.assert_array_equal(shown(file(image, transparency=key)), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_plain_modes_are_as_they_were(mode):
    image = Image.fromarray(COLOUR).convert(mode)
    np.testing.assert_array_equal(shown(file(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_ink_and_adobes_inverted_kind_too(kind):
    image = Image.new("CMYK", (16, 16), (0, 200, 40, 0))
    stream = file(image, kind, quality=100)
    assert (b"Adobe" in stream.getvalue()) == (kind == "JPEG")  # whose levels are turned round
    np.testing.assert_allclose(shown(stream)[8, 8], [255, 55, 215], atol=3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_shows_its_first_frame(kind):
    first, second = Image.new("RGB", (8, 8), (200, 30, 90)), Image.new("RGB", (8, 8), "blue")
    options = {"lossless": True} if kind == "WEBP" else {}
    stream = file(first, kind, save_all=True, append_images=[second], **options)
    assert Image.open(stream).n_frames == 2
    np.testing.assert_array_equal(shown(stream), np.asarray(first))


def test_an_icc_profile_is_left_alone():
    stream = file(Image.fromarray(COLOUR), icc_profile=b"no profile")
    np.testing.assert_array_equal(shown(stream), COLOUR)


DAMAGED = {
    kind: file(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)), kind
    )
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_one_sentence_with_its_name(kind, tmp_path, monkeypatch):
    # A header that promises a gigabyte is refused before it is believed.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    whole = DAMAGED[kind].getvalue()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(40):
        cut = bytearray(whole[: rng.integers(len(whole))])
        for at in rng.integers(0, max(1, min(len(cut), 60)), 2):  # most of all the header
            cut[at : at + 1] = rng.bytes(1)
        path = tmp_path / "broken.img"
        path.write_bytes(cut)
        try:
            read_image(path, str(path))
        except BadImage as error:
            refused += 1
            assert str(error).startswith(f"{path} cannot be read as an image (")
            assert str(error).count("\n") == 0
    assert refused > 20
