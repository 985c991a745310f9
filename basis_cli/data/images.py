"""Pictures in and out of files: read safely here, written atomically by :mod:`basis_cli.data.writing`."""

from __future__ import annotations

import io
import os
import sys
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, JpegImagePlugin, UnidentifiedImageError

from ..errors import InputError, InputWarning, UsageError
from .writing import filled as filled
from .writing import out_folder as out_folder
from .writing import to_pillow as to_pillow
from .writing import with_ending as with_ending
from .writing import write_frames as write_frames
from .writing import write_png as write_png
from .writing import write_sheet as write_sheet
from .writing import write_text as write_text

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM")  # not EPS: Pillow would run Ghostscript on it
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm")
MAX_MEGAPIXELS = 64
FITS = ("crop", "resize", "pad")
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def files_in(folder: Path, recursive: bool) -> list[Path]:
    """The pictures in a folder as their :data:`ENDINGS` tell, sorted; hidden ones are left out.

    Raises:
        InputError: it, or a folder in it, cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"cannot read {error.filename}: {error.strerror}", "check its permissions") from error

    found = []
    for where, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        files = [Path(where, name) for name in names if not name.startswith(".")]
        found += [file for file in files if file.suffix.lower() in ENDINGS]
    return sorted(found)


def contents(source: Path | str) -> bytes:
    """What is in a file, or on standard input if ``source`` is ``"-"``: to read several times what can be read once.

    Raises:
        InputError: missing, unreadable or empty.
    """
    with _opened(source, _named(source)) as file:
        file.seek(0)
        return file.read()


def _named(source: Path | str | bytes) -> str:
    return "standard input" if isinstance(source, bytes) or str(source) == "-" else str(source)


def read(
    source: Path | str | bytes, shape: tuple[int, int, int] | None = None, fit: str | None = None, larger: bool = False
) -> np.ndarray:
    """The picture in a file, its :func:`contents`, or on standard input if ``source`` is ``"-"``.

    As ``(c, h, w)`` float32 in [0, 1].

    Upright as its EXIF orientation says. Without ``shape`` it keeps its own size and has one channel if it is stored
    as gray, else three. With ``shape`` ``(c, h, w)`` it is made gray or repeated to ``c`` channels, and another size
    is an error unless ``fit`` says what to do: ``crop`` the centre, ``resize`` to cover and crop the rest, or ``pad``
    with black. If ``larger``, a picture that is smaller on neither side keeps its size. Gray and PNG keep 16 bits a
    sample; other deep colour is read at 8 bits.

    Warns:
        InputWarning: something was dropped: colour, transparency (shown over black), or frames after the first.

    Raises:
        InputError: missing, unreadable, no picture, damaged, too large, or it does not fit ``shape``.
        UsageError: ``fit`` is none of :data:`FITS`.
    """
    if fit is not None and fit not in FITS:
        raise UsageError(f"no way to fit is called {fit!r}", f"known: {', '.join(FITS)}")
    name = _named(source)
    with _opened(source, name) as file:
        samples, several = _decoded(file, name)
    if several:
        warnings.warn(f"{name} holds several frames: only the first is used", InputWarning, stacklevel=2)
    if samples.dtype.kind in "iu" and samples.dtype.itemsize > 1 and 255 < samples.max() < 4096:
        message = f"{name} uses a sixteenth of its 16 bits and is nearly black: a 12-bit picture? multiply it by 16"
        warnings.warn(message, InputWarning, stacklevel=2)
    picture, opaque = _over_black(_in_unit_range(samples, name))
    if not opaque:
        warnings.warn(f"{name} is transparent in places: black shows through", InputWarning, stacklevel=2)
    if shape is None:
        return np.ascontiguousarray(picture)
    channels, height, width = shape
    if channels == 1 and len(picture) == 3 and (picture != picture[:1]).any():
        warnings.warn(f"{name} is in colour: only its brightness is used", InputWarning, stacklevel=2)
    picture = _in_channels(picture, channels, name)
    if not (larger and picture.shape[1] >= height and picture.shape[2] >= width):
        picture = _fitted(picture, height, width, fit, name)
    return np.ascontiguousarray(picture)


def mask(source: Path | str, size: tuple[int, int], fit: str | None = None) -> np.ndarray:
    """A mask as ``(1, h, w)`` float32 in [0, 1], for pictures of ``size`` ``(h, w)``: how white it is.

    If that is the same everywhere, as of a drawing in black on nothing, it is how opaque it is.

    Raises:
        InputError: as :func:`read`.
    """
    name = _named(source)
    with _opened(source, name) as file:
        samples, _ = _decoded(file, name)
    stored = _in_unit_range(samples, name)
    shade = _in_channels(_over_black(stored)[0], 1, name)
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
    with _opened(source, name) as file:
        samples, _ = _decoded(file, name, None if crop else 2 * size)
    picture = _in_channels(_over_black(_in_unit_range(samples, name))[0], channels, name)
    h, w = picture.shape[1:]
    side = crop or size
    if min(h, w) < side:
        raise InputError(f"{name} is {w} x {h} pixels, smaller than {side} x {side}")
    if crop:
        picture = _fitted(picture, crop, crop, "crop", name)
    return (_fitted(picture, size, size, "resize", name) * 255 + 0.5).astype(np.uint8)


def jpeg_coding(source: Path | str | bytes) -> tuple[tuple[tuple[int, ...], ...], tuple[int, int], tuple[int, int]]:
    """How a JPEG file, or its :func:`contents`, was coded: the arguments of :class:`basis_cli.operators.Jpeg`.

    Quantization tables (rows first; brightness, then chroma), ``(h, w)``, and how many pixels share a chroma value.

    Raises:
        InputError: unreadable, no JPEG file, or one of a rare kind: CMYK, tables or subsampling of its own.
    """
    name = _named(source)
    with _opened(source, name) as file:
        try:
            image = _open_image(file)
        except Exception as error:
            raise InputError(f"{name} is not a picture that can be read", "a JPEG file") from error
        if not isinstance(image, JpegImagePlugin.JpegImageFile):
            raise InputError(f"{name} is {image.format}, not JPEG", "only JPEG's losses can be undone")
        tables = {}
        for plane, (_, _, _, table) in enumerate(image.layer):
            tables[plane] = tuple(image.quantization.get(table, ()))
        sampling = {-1: (1, 1), 0: (1, 1), 1: (1, 2), 2: (2, 2)}[JpegImagePlugin.get_sampling(image)]
        rare = image.mode not in ("L", "RGB") or () in tables.values() or tables.get(1) != tables.get(2)
        if rare or (image.mode == "RGB" and JpegImagePlugin.get_sampling(image) < 0):
            raise InputError(f"{name} is coded in a way that is not known here", "save it as a usual JPEG file")
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            raise InputError(f"{name} is stored rotated", "turn it losslessly first, for example with jpegtran")
        chosen = tuple(tables[plane] for plane in sorted(tables) if plane < 2)
        return chosen, (image.height, image.width), sampling


def _opened(source: Path | str | bytes, name: str) -> BinaryIO:
    """A seekable file with something in it."""
    if isinstance(source, bytes):
        file: BinaryIO = io.BytesIO(source)
    elif str(source) == "-":
        file = io.BytesIO(sys.stdin.buffer.read())
    else:
        if os.path.isdir(source):  # unlike Path.is_dir it never raises
            raise InputError(f"{name} is a folder, not a picture", "name the pictures in it")
        try:
            file = open(source, "rb")  # noqa: SIM115 - the caller closes it
        except FileNotFoundError as error:
            raise InputError(f"{name} does not exist", "check the name, and the folder you are in") from error
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror}", "check the path and its permissions") from error
        if not file.seekable():  # a pipe
            with file:
                file = io.BytesIO(file.read())
    if not file.read(1):
        file.close()
        raise InputError(f"{name} is empty", "did the program that should write it fail?")
    return file


def _decoded(file: BinaryIO, name: str, enough: int | None = None) -> tuple[np.ndarray, bool]:
    """What :func:`_samples` returns, with every failure of Pillow mapped to ``InputError``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Pillow's limit is above ours
            return _samples(file, enough)
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} has more than {MAX_MEGAPIXELS} megapixels", "crop or shrink it first") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not a picture that can be read", f"known: {', '.join(FORMATS)}") from error
    except Exception as error:  # a decoder that is fed damaged data may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        hint = "is it complete? if so, save it as PNG"
        raise InputError(f"{name} is damaged or of an unknown kind: {reason}", hint) from error


def _open_image(file: BinaryIO) -> ImageFile.ImageFile:
    """The picture with its header read and its size checked, not yet decoded."""
    image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MAX_MEGAPIXELS * 1_000_000:
        raise Image.DecompressionBombError
    return image


def _samples(file: BinaryIO, enough: int | None = None) -> tuple[np.ndarray, bool]:
    """``(h, w, c)`` as stored, in any range, and whether more frames follow; of 2 or 4 channels the last is opacity.

    A JPEG file with more than ``enough`` pixels on each side may be decoded at a half, a quarter or an eighth.
    """
    image = _open_image(file)
    if enough:
        image.draft(None, (enough, enough))  # type: ignore[arg-type]
    several = getattr(image, "is_animated", False)
    stored = image.tile[0][3] if image.format == "PNG" else ""
    if stored == "LA;16B":
        halves = np.asarray(_loaded(image, "RGBA"))  # gray high, gray low, opacity high, opacity low
        samples = _joined(halves[..., ::2], halves[..., 1::2])
    elif stored in ("RGB;16B", "RGBA;16B"):
        # Pillow keeps the first byte of each sample, or the last if it takes the sample for little-endian
        high = np.asarray(_loaded(image))
        samples = _joined(high, np.asarray(_loaded(_open_image(file), stored[:-1] + "L")))
    elif image.mode == "F" or image.mode.startswith("I"):
        samples = np.asarray(_loaded(image))[..., None]
    else:
        mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
        image = _loaded(image)
        samples = np.asarray(image.convert(mode + "A" if image.has_transparency_data else mode))
        return samples.reshape(*samples.shape[:2], -1), several
    if "transparency" in image.info:  # one sample value, or colour, that stands for transparent
        opaque = (samples != image.info["transparency"]).any(-1, keepdims=True)
        samples = np.concatenate([samples, np.where(opaque, 65535, 0).astype(samples.dtype)], axis=-1)
    return samples, several


def _loaded(image: ImageFile.ImageFile, rawmode: str | None = None) -> ImageFile.ImageFile:
    """The picture decoded, its bytes taken as ``rawmode`` if given, and upright."""
    if rawmode:
        image.tile = [(*image.tile[0][:3], rawmode)]  # type: ignore[list-item]
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _joined(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    return high.astype(np.uint16) * 256 + low


def _in_unit_range(samples: np.ndarray, name: str) -> np.ndarray:
    """Stored samples as float32 in [0, 1]: 8-bit, 16-bit (also in 32-bit integers), or floats in that range already."""
    if samples.dtype == np.uint8:
        return samples.astype(np.float32) / 255
    top = 1 if samples.dtype.kind == "f" else 65535
    if not ((samples >= 0) & (samples <= top)).all():  # also false for NaN
        raise InputError(f"{name} holds values outside 0 to {top}", "scale it to that range first")
    return samples.astype(np.float32) / top


def _over_black(samples: np.ndarray) -> tuple[np.ndarray, bool]:
    """``(h, w, c)`` with or without opacity as ``(1 or 3, h, w)`` without, and whether all of it was opaque."""
    picture = np.moveaxis(samples, -1, 0)
    if len(picture) in (1, 3):
        return picture, True
    picture, opacity = picture[:-1], picture[-1:]
    return picture * opacity, not (opacity < 1).any()


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
        raise InputError(f"{size}, the prior models {width} x {height}", f"{tiles}--fit crop, resize or pad")
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
