"""Files of pictures decoded to samples, whatever they are."""

from __future__ import annotations

import io
import os
import sys
import warnings
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError, features

from ..errors import InputError
from . import sources
from .tags import Profile, Tags, describing_exif, srgb

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM")  # not EPS: Pillow would run Ghostscript on it
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".avif", ".heic", ".heif")
MAX_MEGAPIXELS = 64
MAX_BYTES = 2**29  # that many pixels in four channels of 16 bits


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
    name = named(source)
    with opened(source, name) as file:
        file.seek(0)
        return _all(file, name)


def _all(file: BinaryIO, name: str) -> bytes:
    """What is left in a file, which may have no end."""
    content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputError(f"{name} has more than {MAX_BYTES >> 20} MB", "is it a picture?")
    return content


def named(source: Path | str | bytes) -> str:
    return "standard input" if isinstance(source, bytes) or str(source) == "-" else str(source)


def opened(source: Path | str | bytes, name: str) -> BinaryIO:
    """A seekable file with something in it."""
    try:
        file = _opened(source, name)
    except FileNotFoundError as error:
        raise InputError(f"{name} does not exist", "check the name, and the folder you are in") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise _unreadable(name, error) from error
    try:
        if not file.read(1):
            raise InputError(f"{name} is empty", "did the program that should write it fail?")
        _check_reader(_container(file), name)
    except OSError as error:
        file.close()
        raise _unreadable(name, error) from error
    except BaseException:
        file.close()
        raise
    return file


def _opened(source: Path | str | bytes, name: str) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if (content := sources.content(str(source))) is not None:
        return io.BytesIO(content)
    if str(source) == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed", "name a file, or send a picture through a pipe")
        return io.BytesIO(_all(sys.stdin.buffer, name))
    if os.path.isdir(source):  # unlike Path.is_dir it never raises
        raise InputError(f"{name} is a folder, not a picture", "name the pictures in it")
    file = open(source, "rb")  # noqa: SIM115 - the caller closes it
    if file.seekable():
        return file
    with file:  # a pipe
        return io.BytesIO(_all(file, name))


def _unreadable(name: str, error: Exception) -> InputError:
    return InputError(
        f"cannot read {name}: {getattr(error, 'strerror', None) or error}", "check the path and its permissions"
    )


def _container(file: BinaryIO) -> str:
    """``AVIF`` or ``HEIF`` if the file is one of those, which have a header of their own, else nothing."""
    file.seek(0)
    header = file.read(64)
    brands = header[8 : int.from_bytes(header[:4], "big")] if header[4:8] == b"ftyp" else b""
    return "AVIF" if b"avi" in brands else "HEIF" if any(brand in brands for brand in (b"hei", b"hev", b"mif1")) else ""


def _reads_avif() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow before 11.3 does not know the word
        return bool(features.check("avif"))


def _check_reader(container: str, name: str) -> None:
    """Raise an ``InputError`` if what reads such files is not installed."""
    if container == "AVIF" and not _reads_avif():
        raise InputError(f"{name} is AVIF, which this Pillow does not read", "pip install --upgrade pillow")
    if container == "HEIF":
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise InputError(f"{name} is HEIC", "pip install 'basis-cli[heif]', or save it as JPEG or PNG") from None
        register_heif_opener()


class Decoded(NamedTuple):
    """A picture as a file holds it."""

    samples: np.ndarray
    """``(h, w, c)`` in any range; of 2 or 4 channels the last is opacity."""
    tags: Tags
    dropped: list[str]
    """What of the file is not used, for warnings."""


def decoded(file: BinaryIO, name: str, enough: int | None = None, as_coded: bool = False) -> Decoded:
    """What :func:`_samples` returns, with every failure of Pillow mapped to ``InputError``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Pillow's limit is above ours
            return _samples(file, enough, as_coded)
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} has more than {MAX_MEGAPIXELS} megapixels", "crop or shrink it first") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name} is not a picture that can be read", f"known: {', '.join(FORMATS)}, AVIF, HEIC"
        ) from error
    except Exception as error:  # a decoder that is fed damaged data may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        hint = "is it complete? if so, save it as PNG"
        raise InputError(f"{name} is damaged or of an unknown kind: {reason}", hint) from error


def open_image(file: BinaryIO) -> ImageFile.ImageFile:
    """The picture with its header read and its size checked, not yet decoded."""
    container = _container(file)
    image = Image.open(file, formats=(container,) if container else FORMATS)
    if image.width * image.height > MAX_MEGAPIXELS * 1_000_000:
        raise Image.DecompressionBombError
    return image


def _samples(file: BinaryIO, enough: int | None, as_coded: bool) -> Decoded:
    """The picture, upright, in sRGB unless ``as_coded``.

    A JPEG file with more than ``enough`` pixels on each side may be decoded at a half, a quarter or an eighth.
    """
    image = open_image(file)
    if image.format == "PNG":  # Pillow does not look at the checksums of the samples when it decodes them
        image.verify()
        image = open_image(file)
    if enough:
        image.draft(None, (enough, enough))  # type: ignore[arg-type]
    dropped = ["holds several frames: only the first is used"] if getattr(image, "is_animated", False) else []
    profile = _profile(image, dropped)
    other = None if profile is None or as_coded or profile.is_srgb else profile  # what is to be converted
    in_cmyk = other and other.mode == "CMYK"
    samples = _as_stored(image, file, other if in_cmyk else None)
    if other and not in_cmyk:
        if samples.dtype.kind == "f" or samples.min() < 0 or samples.max() > 65535:
            dropped.append("has a colour profile, which is not applied to such samples")
            other = None
        else:
            if samples.dtype != np.uint8:
                dropped.append("is read at 8 bits, because of its colour profile")
            samples = _in_srgb(samples, other)
    about = {"profile": profile.name} | ({"converted_to": "sRGB"} if other else {}) if profile else {}
    kept = b"" if profile is None else srgb() if other else image.info["icc_profile"]
    try:
        exif = describing_exif(image)
    except Exception:  # Pillow reads it as it comes, and may trip over anything
        dropped.append("has damaged EXIF data, which are left out")
        exif = b""
    return Decoded(samples, Tags(exif, kept, about | ({"exif": "kept"} if exif else {})), dropped)


def _profile(image: Image.Image, dropped: list[str]) -> Profile | None:
    """Of the picture's colours; what is wrong with it goes to ``dropped``."""
    icc = image.info.get("icc_profile")
    if not icc:
        return None
    kind = "CMYK" if image.mode == "CMYK" else "RGB" if image.mode in ("RGB", "RGBA", "RGBX", "P", "PA") else "L"
    try:
        profile = Profile(icc)
        if profile.mode in (kind, "RGB"):
            return profile
        reason: object = f"it is of {profile.mode}"
    except (ImageCms.PyCMSError, OSError, ImportError) as error:
        reason = error
    dropped.append(f"has a colour profile that cannot be used, and is taken for sRGB: {reason}")
    return None


def _in_srgb(samples: np.ndarray, profile: Profile) -> np.ndarray:
    """``(h, w, c)`` of 8 or 16 bits, with 8 bits in sRGB, gray or in colour as it was; opacity is left alone."""
    eight = samples if samples.dtype == np.uint8 else (samples / 257 + 0.5).astype(np.uint8)
    c = 1 if eight.shape[-1] < 3 else 3
    colours = Image.fromarray(eight[..., 0] if c == 1 else np.ascontiguousarray(eight[..., :3]))
    converted = np.asarray(profile.to_srgb(colours)).reshape(*eight.shape[:2], c)
    return np.concatenate([converted, eight[..., c:]], axis=-1)


def _as_stored(image: ImageFile.ImageFile, file: BinaryIO, of_cmyk: Profile | None) -> np.ndarray:
    """``(h, w, c)`` in any range; of 2 or 4 channels the last is opacity."""
    stored = image.tile[0][3] if image.format == "PNG" else ""
    if stored == "LA;16B":
        halves = np.asarray(_loaded(image, "RGBA"))  # gray high, gray low, opacity high, opacity low
        samples = _joined(halves[..., ::2], halves[..., 1::2])
    elif stored in ("RGB;16B", "RGBA;16B"):
        # Pillow keeps the first byte of each sample, or the last if it takes the sample for little-endian
        high = np.asarray(_loaded(image))
        samples = _joined(high, np.asarray(_loaded(open_image(file), stored[:-1] + "L")))
    elif image.mode == "F" or image.mode.startswith("I"):
        samples = np.asarray(_loaded(image))[..., None]
    else:
        mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
        image = _loaded(image)
        shown = of_cmyk.to_srgb(image) if of_cmyk else image
        samples = np.asarray(shown.convert(mode + "A" if image.has_transparency_data else mode))
        return samples.reshape(*samples.shape[:2], -1)
    if "transparency" in image.info:  # one sample value, or colour, that stands for transparent
        opaque = (samples != image.info["transparency"]).any(-1, keepdims=True)
        samples = np.concatenate([samples, np.where(opaque, 65535, 0).astype(samples.dtype)], axis=-1)
    return samples


def _loaded(image: ImageFile.ImageFile, rawmode: str | None = None) -> ImageFile.ImageFile:
    """The picture decoded, its bytes taken as ``rawmode`` if given, and upright."""
    if rawmode:
        image.tile = [(*image.tile[0][:3], rawmode)]  # type: ignore[list-item]
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _joined(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    return high.astype(np.uint16) * 256 + low
