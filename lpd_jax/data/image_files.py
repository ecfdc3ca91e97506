"""From image files to pixels: the one place where they are decoded, with Pillow.

What comes out is what a viewer shows on white, in 8 bits per channel:

* turned upright as EXIF says (the official code takes images as they lie); damaged EXIF is ignored;
* transparency (an alpha channel, a transparent colour of a palette) laid over white, so that
  colours hidden under it never show;
* 16-bit grey scaled to 8 bits (Pillow's own conversion makes it white), also in 32-bit integers;
* floating-point grey: up to 1 it is a fraction of white, up to 255 it is levels of 8 bits;
* CMYK by Pillow's plain formula, Adobe's inverted kind included;
* of an animation, the first frame.

Colour profiles (ICC) are left alone: the numbers in the file are taken as sRGB, as in the official
code and in all figures published for ImageNet.
"""

import errno
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base as Exif
from PIL.Image import Transpose

from lpd_jax.errors import InputError

# Formats that Pillow knows by name only, or hands to another program.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# What files of images end in: whatever this Pillow decodes.
EXTENSIONS = frozenset(
    suffix
    for suffix, kind in Image.registered_extensions().items()
    if kind in Image.OPEN and kind not in _NOT_DECODED
)
EXAMPLES = ".jpg, .png, .webp, .gif, .tif and whatever else Pillow reads"
# What is wrong with the machine and not with the file.
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# EXIF orientation -> what makes it upright; 1 is.
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


class BadImage(InputError):
    """One image that cannot be used, where others can: it may be skipped.

    Attributes:
        name: what messages call it, such as its path.
        reason: why, in some words.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name} cannot be read as an image ({reason}); replace or remove it.")
        self.name, self.reason = name, reason

    def __reduce__(self):
        return type(self), (self.name, self.reason)  # between processes


def read_image(file: str | Path | BinaryIO, name: str) -> Image.Image:
    """Decodes an image file to mode RGB, as the head of this module says.

    Args:
        file: path, or open binary file.
        name: what messages call it.

    Raises:
        BadImage: the file is damaged, absent, no image, or has levels whose white is unknown.
    """
    try:
        with Image.open(file) as image:
            image.load()
            turn = UPRIGHT.get(_orientation(image))
            image = _eight_bits(image)
            image = image if turn is None else image.transpose(turn)
            return _over_white(image)
    except UnidentifiedImageError as error:
        reason, cause = "its content is of no format that Pillow knows", error
    # Pillow's decoders report damage through types of every kind (struct.error, EOFError, ...).
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _OF_THE_MACHINE:
            raise
        said = getattr(error, "strerror", None) or " ".join(str(error).split())
        reason, cause = said or type(error).__name__, error
    raise BadImage(name, reason) from cause


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(Exif.Orientation, 1)
    # The pixels of an image with damaged EXIF are good, and viewers show them as they lie.
    except Exception:
        return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more bits to 8; everything else as it is."""
    if image.mode == "F":
        return Image.fromarray(_round(np.asarray(image) * _float_scale(image)))
    if not image.mode.startswith("I"):
        return image
    levels = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(Exif.BitsPerSample, (16,))[0]
    white = 2 ** min(16, bits) - 1
    if levels.min() < 0 or levels.max() > white:
        raise ValueError(
            f"it has grey levels from {levels.min()} to {levels.max()}, and {white} is white: "
            "save it with 8 or 16 bits"
        )
    grey = levels
    if tags.get(Exif.PhotometricInterpretation) == 0:  # white is zero
        grey = white - levels
    shown = Image.fromarray(_round(grey * (255 / white)))
    if "transparency" in image.info:
        shown.putalpha(Image.fromarray(levels != image.info["transparency"]).convert("L"))
    return shown


def _float_scale(image: Image.Image) -> float:
    low, high = image.getextrema()
    if not (np.isfinite(np.asarray(image)).all() and high <= 255):
        raise ValueError(
            f"it has grey levels from {low:g} to {high:g}: save it with levels from 0 to 1"
        )
    return 255 if high <= 1 else 1


def _round(levels: np.ndarray) -> np.ndarray:
    return np.rint(levels.clip(0, 255)).astype(np.uint8)


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
