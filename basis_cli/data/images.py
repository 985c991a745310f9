"""Pictures in and out of files: decoded safely (:mod:`basis_cli.data.decoding`), made fit for a prior here, written
atomically (:mod:`basis_cli.data.writing`)."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin

from ..errors import InputError, InputWarning, UsageError
from .decoding import ENDINGS as ENDINGS
from .decoding import contents as contents
from .decoding import decoded, named, open_image, opened
from .decoding import files_in as files_in
from .tags import Tags as Tags
from .writing import SAVED as SAVED
from .writing import check_deep_png as check_deep_png
from .writing import check_storable as check_storable
from .writing import filled as filled
from .writing import has_opacity as has_opacity
from .writing import out_folder as out_folder
from .writing import to_pillow as to_pillow
from .writing import with_ending as with_ending
from .writing import write_frames as write_frames
from .writing import write_picture as write_picture
from .writing import write_png as write_png
from .writing import write_sheet as write_sheet
from .writing import write_text as write_text

FITS = ("crop", "resize", "pad")
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


class Stored(NamedTuple):
    """What is in a file."""

    pixels: np.ndarray
    """``(c, h, w)`` float32 in [0, 1], as :func:`read`."""
    opacity: np.ndarray | None
    """``(1, h, w)``, or ``None`` where all is opaque."""
    tags: Tags


def read(
    source: Path | str | bytes,
    shape: tuple[int, int, int] | None = None,
    fit: str | None = None,
    larger: bool = False,
    white_level: float | None = None,
) -> np.ndarray:
    """The picture in a file, its :func:`contents`, or on standard input if ``source`` is ``"-"``.

    As ``(c, h, w)`` float32 in [0, 1], in the colours of sRGB whatever its profile.

    Upright as its EXIF orientation says. Without ``shape`` it keeps its own size and has one channel if it is stored
    as gray, else three. With ``shape`` ``(c, h, w)`` it is made gray or repeated to ``c`` channels, and another size
    is an error unless ``fit`` says what to do: ``crop`` the centre, ``resize`` to cover and crop the rest, or ``pad``
    with black. If ``larger``, a picture that is smaller on neither side keeps its size. Gray and PNG keep 16 bits a
    sample; other deep colour is read at 8 bits. ``white_level`` is the stored value that is white, 4095 of 12-bit
    pictures; their colours are left as they are stored.

    Warns:
        InputWarning: something was dropped: colour, opacity, depth, a profile, or frames after the first.

    Raises:
        InputError: missing, unreadable, no picture, damaged, too large, or it does not fit ``shape``.
        UsageError: ``fit`` is none of :data:`FITS`.
    """
    stored = load(source, shape, fit, larger, white_level=white_level)
    if stored.opacity is not None:
        message = f"{named(source)} is transparent in places: it is taken as if it were not"
        warnings.warn(message, InputWarning, stacklevel=2)
    return stored.pixels


def load(
    source: Path | str | bytes,
    shape: tuple[int, int, int] | None = None,
    fit: str | None = None,
    larger: bool = False,
    as_coded: bool = False,
    white_level: float | None = None,
) -> Stored:
    """As :func:`read`, with the opacity, and what the file says of the picture.

    Colours are those below the opacity. Where there is but one, of a drawing on nothing, the picture is seen in the
    opacity alone: it is shown over black, and taken for opaque. If ``as_coded``, colours are not converted.
    """
    if fit is not None and fit not in FITS:
        raise UsageError(f"no way to fit is called {fit!r}", f"known: {', '.join(FITS)}")
    if white_level is not None and not 0 < white_level < math.inf:
        raise UsageError(f"no white level is {white_level}", "4095 of 12-bit pictures")
    name = named(source)
    with opened(source, name) as file:
        samples, tags, dropped = decoded(file, name, as_coded=as_coded or white_level is not None)
    deep = samples.dtype.kind in "iu" and samples.dtype.itemsize > 1
    if deep and white_level is None and 255 < samples.max() < 4096:
        dropped.append(
            "uses a sixteenth of its 16 bits and is nearly black: if it is a 12-bit picture, --white-level 4095"
        )
    if white_level is not None and (samples[..., : 1 if samples.shape[-1] < 3 else 3] > white_level).any():
        dropped.append("holds values above the white level, which are taken for white")
    samples = _in_unit_range(samples, name, white_level)
    picture, opacity = np.moveaxis(samples, -1, 0), None
    if len(picture) in (2, 4):
        picture, opacity = picture[:-1], picture[-1:]
        seen = picture[:, opacity[0] > 0]
        if (opacity == 1).all():
            opacity = None
        elif (seen == seen[:, :1]).all():
            picture, opacity = _over_black(samples), None
            dropped.append("is a drawing in one colour, transparent in places: black shows through")
    if shape is not None:
        channels, height, width = shape
        if channels == 1 and len(picture) == 3 and (picture != picture[:1]).any():
            dropped.append("is in colour: only its brightness is used")
        picture = _in_channels(picture, channels, name)
        if not (larger and picture.shape[1] >= height and picture.shape[2] >= width):
            picture = _fitted(picture, height, width, fit, name)
            opacity = None if opacity is None else _fitted(opacity, height, width, fit, name)
    for what in dropped:
        warnings.warn(f"{name} {what}", InputWarning, stacklevel=2)
    return Stored(np.ascontiguousarray(picture), opacity, tags)


def mask(source: Path | str, size: tuple[int, int], fit: str | None = None) -> np.ndarray:
    """A mask as ``(1, h, w)`` float32 in [0, 1], for pictures of ``size`` ``(h, w)``: how white it is.

    If that is the same everywhere, as of a drawing in black on nothing, it is how opaque it is.

    Raises:
        InputError: as :func:`read`.
    """
    name = named(source)
    with opened(source, name) as file:
        samples = decoded(file, name, as_coded=True).samples
    stored = _in_unit_range(samples, name)
    shade = _in_channels(_over_black(stored), 1, name)
    white = shade > 0.5
    if stored.shape[-1] in (2, 4) and (white.all() or not white.any()):
        shade = stored[None, ..., -1]
    (h, w), (height, width) = shade.shape[1:], size
    if fit is None and (h, w) != (height, width):
        message = f"{name} is {w} x {h} pixels, but the picture is {width} x {height}"
        raise InputError(message, "a mask of that size, or --fit crop, resize or pad")
    return _fitted(shade, *size, fit, name)


def square(source: Path | bytes, size: int, crop: int | None = None, channels: int = 3) -> np.ndarray:
    """The middle of a picture, a file or its bytes, as ``(channels, size, size)`` uint8: what priors are trained on.

    It is the largest square in the middle, or the one of ``crop`` pixels, shrunk with antialiasing. What :func:`read`
    warns of is done without a word.

    Raises:
        InputError: missing, unreadable, no picture, damaged, too large, or smaller than ``size`` or ``crop``.
    """
    name = "a picture" if isinstance(source, bytes) else str(source)
    with opened(source, name) as file:
        samples = decoded(file, name, None if crop else 2 * size).samples
    picture = _in_channels(_over_black(_in_unit_range(samples, name)), channels, name)
    h, w = picture.shape[1:]
    side = crop or size
    if min(h, w) < side:
        raise InputError(f"{name} is {w} x {h} pixels, smaller than {side} x {side}")
    if crop:
        picture = _fitted(picture, crop, crop, "crop", name)
    return (_fitted(picture, size, size, "resize", name) * 255 + 0.5).astype(np.uint8)


class JpegCoding(NamedTuple):
    """How a JPEG file was coded: the arguments of :class:`basis_cli.operators.Jpeg`."""

    tables: tuple[tuple[int, ...], ...]
    """Quantization steps, rows first; of brightness, then chroma."""
    size: tuple[int, int]
    """``(h, w)``, upright."""
    subsampling: tuple[int, int]
    """How many pixels ``(high, wide)`` share a chroma value."""
    orientation: int
    """EXIF's."""


def jpeg_coding(source: Path | str | bytes) -> JpegCoding:
    """How a JPEG file, or its :func:`contents`, was coded.

    Raises:
        InputError: unreadable, no JPEG file, or one of a rare kind: not gray or YCbCr, or chroma planes that differ.
    """
    name = named(source)
    with opened(source, name) as file:
        try:
            image = open_image(file)
        except Exception as error:
            raise InputError(f"{name} is not a picture that can be read", "a JPEG file") from error
        if not isinstance(image, JpegImagePlugin.JpegImageFile):
            raise InputError(f"{name} is {image.format}, not JPEG", "only JPEG's losses can be undone")
        planes = [(wide, high, tuple(image.quantization.get(table, ()))) for _, wide, high, table in image.layer]
        (wide, high, _), (chroma_wide, chroma_high, _) = planes[0], planes[-1]
        in_rgb = image.info.get("adobe_transform") == 0 or [plane[0] for plane in image.layer] == [*b"RGB"]
        rare = image.mode not in ("L", "RGB") or (image.mode == "RGB" and (in_rgb or len(planes) != 3))
        if (
            rare
            or planes[1:2] != planes[2:]
            or wide % chroma_wide
            or high % chroma_high
            or any(() in p for p in planes)
        ):
            raise InputError(f"{name} is coded in a way that is not known here", "save it as a usual JPEG file")
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        orientation = orientation if orientation in range(1, 9) else 1
        size = (image.width, image.height) if orientation >= 5 else (image.height, image.width)
        tables = tuple(table for _, _, table in planes[:2])
        return JpegCoding(tables, size, (high // chroma_high, wide // chroma_wide), orientation)


def resized(opacity: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``(1, h, w)`` at another size, bicubically."""
    if opacity.shape[1:] == size:
        return opacity
    large = Image.fromarray(opacity[0]).resize(size[::-1], Image.Resampling.BICUBIC)  # in floats: mode F
    return np.asarray(large)[None].clip(0, 1)


def _in_unit_range(samples: np.ndarray, name: str, white_level: float | None = None) -> np.ndarray:
    """Stored samples as float32 in [0, 1]: 8-bit, 16-bit (also in 32-bit integers), or floats in that range already.

    Where ``white_level`` is given, all but the opacity is divided by that instead.
    """
    if white_level is not None:
        colours = 1 if samples.shape[-1] < 3 else 3
        seen = (samples[..., :colours] / white_level).astype(np.float32)
        if not (seen >= 0).all():  # also false for NaN
            raise InputError(f"{name} holds values below 0", "shift it first")
        return np.concatenate([seen.clip(max=1), _in_unit_range(samples[..., colours:], name)], axis=-1)
    if samples.dtype == np.uint8:
        return samples.astype(np.float32) / 255
    top = 1 if samples.dtype.kind == "f" else 65535
    if not ((samples >= 0) & (samples <= top)).all():  # also false for NaN
        raise InputError(f"{name} holds values outside 0 to {top}", "scale it to that range first, or --white-level")
    return samples.astype(np.float32) / top


def _over_black(samples: np.ndarray) -> np.ndarray:
    """``(h, w, c)`` with or without opacity as ``(1 or 3, h, w)`` without."""
    picture = np.moveaxis(samples, -1, 0)
    return picture if len(picture) in (1, 3) else picture[:-1] * picture[-1:]


def _in_channels(picture: np.ndarray, channels: int, name: str) -> np.ndarray:
    """``(1 or 3, h, w)`` as ``(channels, h, w)``: gray repeated, colour made gray."""
    if channels == 1 and len(picture) == 3:
        return np.tensordot(LUMA, picture, 1)[None] if (picture != picture[:1]).any() else picture[:1]
    if channels == 3 and len(picture) == 1:
        return picture.repeat(3, axis=0)
    if channels != len(picture):
        raise InputError(f"{name} has {len(picture)} channels, the prior models {channels}", "choose another prior")
    return picture


def _fitted(picture: np.ndarray, height: int, width: int, fit: str | None, name: str) -> np.ndarray:
    """``(c, h, w)`` as ``(c, height, width)``."""
    h, w = picture.shape[1:]
    if (h, w) == (height, width):
        return picture
    size = f"{name} is {w} x {h} pixels"
    if fit is None:
        tiles = "--tile, or " if h >= height and w >= width else ""
        ways = f"{tiles}--fit crop, resize or pad; --prior ncsn-photo is for photographs of any size"
        raise InputError(f"{size}, the prior models {width} x {height}", ways)
    if fit == "resize":
        resized = [
            ImageOps.fit(Image.fromarray(channel), (width, height), Image.Resampling.LANCZOS)  # in floats: mode F
            for channel in picture
        ]
        return np.stack([np.asarray(channel) for channel in resized]).clip(0, 1)
    if fit == "crop":
        if h < height or w < width:
            raise InputError(f"{size}, too small to crop {width} x {height} from", "--fit resize or pad")
        top, left = (h - height) // 2, (w - width) // 2
        return picture[:, top : top + height, left : left + width]
    if h > height or w > width:
        raise InputError(f"{size}, too large to pad to {width} x {height}", "--fit resize or crop")
    top, left = (height - h) // 2, (width - w) // 2
    return np.pad(picture, ((0, 0), (top, height - h - top), (left, width - w - left)))
