"""Pictures and text into files, each whole or not at all."""

from __future__ import annotations

import io
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import BasisError, InputError, InputWarning, UsageError
from .files import atomically
from .tags import Tags


def out_folder(path: Path) -> Path:
    """``path`` as a folder that exists and can be written to.

    Raises:
        BasisError: it cannot be made, or nothing can be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise BasisError(f"{path} cannot be the output folder: {error.strerror or error}", "choose another") from error
    return path


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically. Raises ``BasisError`` if it cannot be written."""
    with atomically(path) as partial:
        partial.write_text(text, encoding="utf-8")


def to_pillow(picture: np.ndarray) -> Image.Image:
    """``(c, h, w)`` floats in [0, 1] as an 8-bit Pillow image, gray or RGB; of 2 or 4 channels the last is opacity."""
    eight_bit = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(eight_bit[0] if len(eight_bit) == 1 else np.moveaxis(eight_bit, 0, -1))


def write_png(path: Path, image: Image.Image) -> None:
    """Save as PNG atomically: a killed run leaves no half-written picture. Raises ``BasisError`` if it cannot."""
    with atomically(path) as partial:
        image.save(partial, format="PNG")


SAVED: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".tif": {"format": "TIFF"},
    ".webp": {"format": "WEBP", "lossless": True, "exact": True},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}
"""How answers are stored, by ending. Only JPEG loses anything; ``exact`` keeps the colours below no opacity. TIFF is
not compressed, because libtiff, which would do it, takes no EXIF data."""
SAVED |= {".tiff": SAVED[".tif"], ".jpeg": SAVED[".jpg"]}
LARGEST = {"WEBP": 16383, "JPEG": 65535}
"""Pixels a side."""


def has_opacity(ending: str) -> bool:
    """Whether the format of files that end so has any."""
    return SAVED[ending.lower()]["format"] != "JPEG"


def check_storable(name: str, ending: str, size: tuple[int, int], opaque: bool) -> None:
    """Raise an ``InputError`` if the answer ``(h, w)`` to a file is too large for a format; warn of lost opacity."""
    form = SAVED[ending.lower()]["format"]
    if max(size) > LARGEST.get(form, max(size)):
        raise InputError(f"{name}: {form} holds at most {LARGEST[form]} pixels a side, not {max(size)}", "--format png")
    if not (opaque or has_opacity(ending)):
        message = f"{name} is transparent in places, but JPEG has no opacity: the answer is opaque"
        warnings.warn(message, InputWarning, stacklevel=2)


def write_picture(
    path: Path, picture: np.ndarray, *, bits: int = 8, opacity: np.ndarray | None = None, tags: Tags | None = None
) -> None:
    """Write ``(c, h, w)`` in [0, 1] atomically, with opacity ``(1, h, w)``, in the format of the name's ending.

    PNG holds 8 or 16 ``bits`` a sample, others 8. Raises ``BasisError`` if it cannot be written.
    """
    saved, tags = SAVED[path.suffix.lower()], tags or Tags()
    profile = tags.profile if tags.profile[16:20] == (b"GRAY" if len(picture) == 1 else b"RGB ") else b""
    if opacity is not None and has_opacity(path.suffix):
        picture = np.concatenate([picture, opacity])
    with atomically(path) as partial:
        if bits == 16:
            partial.write_bytes(_deep_png(picture, tags.exif, profile))
        else:
            said: dict[str, Any] = {"exif": tags.exif, "icc_profile": profile}
            to_pillow(picture).save(partial, **saved, **{key: value for key, value in said.items() if value})


def check_deep_png() -> None:
    """Raise a ``UsageError`` unless pypng, which writes 16 bits a sample, is there."""
    try:
        import png  # noqa: F401
    except ImportError:
        raise UsageError("16 bits a sample need pypng", "pip install 'basis-cli[png16]'") from None


def _deep_png(picture: np.ndarray, exif: bytes, profile: bytes) -> bytes:
    """``(c, h, w)`` in [0, 1] as a PNG file of 16 bits a sample."""
    import png

    c, h, w = picture.shape
    rows = np.moveaxis((np.clip(picture, 0, 1) * 65535 + 0.5).astype(">u2"), 0, -1).reshape(h, c * w)
    plain, said = io.BytesIO(), io.BytesIO()
    writer = png.Writer(w, h, greyscale=c < 3, alpha=c in (2, 4), bitdepth=16)
    writer.write_packed(plain, [row.tobytes() for row in rows])
    if profile:
        png.write_chunk(said, b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile))
    if exif:
        png.write_chunk(said, b"eXIf", exif.removeprefix(b"Exif\0\0"))
    header = 33  # signature and IHDR
    return plain.getvalue()[:header] + said.getvalue() + plain.getvalue()[header:]


def write_sheet(path: Path, pictures: np.ndarray, columns: int | None = None) -> None:
    """Write ``(n, c, h, w)`` pictures in [0, 1] as one contact sheet, row by row, with a thin margin."""
    n, c, h, w = pictures.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    sheet = np.ones((c, rows * (h + 2) + 2, columns * (w + 2) + 2), np.float32)
    for i, picture in enumerate(pictures):
        top, left = 2 + (i // columns) * (h + 2), 2 + (i % columns) * (w + 2)
        sheet[:, top : top + h, left : left + w] = picture
    write_png(path, to_pillow(sheet))


def with_ending(base: Path, ending: str) -> Path:
    """``base`` with ``ending`` after its whole name, dots and all."""
    return base.with_name(base.name + ending)


def filled(picture: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """An observed picture ``(c, h, w)`` shown at ``shape``: gray repeated to all channels, small pixels as squares."""
    c, h, w = shape
    picture = np.broadcast_to(picture, (c, *picture.shape[1:])) if len(picture) == 1 else picture
    return picture.repeat(h // picture.shape[1], axis=1).repeat(w // picture.shape[2], axis=2)


def write_frames(base: Path, frames: np.ndarray) -> tuple[Path, Path]:
    """Write states ``(levels, k, c, h, w)``: a sheet with a column for each level (Figure 9) and an animation.

    Returns:
        ``BASE.frames.png`` and ``BASE.frames.webp``, which is enlarged to about 256 pixels.
    """
    levels, k, c, h, w = frames.shape
    strip, animation = with_ending(base, ".frames.png"), with_ending(base, ".frames.webp")
    write_sheet(strip, frames.swapaxes(0, 1).reshape(levels * k, c, h, w), columns=levels)
    enlarge = max(1, 256 // h)
    small = [to_pillow(np.concatenate(list(state), axis=2)).convert("RGB") for state in frames]
    rows = [row.resize((enlarge * row.width, enlarge * row.height), Image.Resampling.NEAREST) for row in small]
    with atomically(animation) as partial:
        rows[0].save(
            partial,
            format="WEBP",
            save_all=True,
            append_images=rows[1:],
            lossless=True,
            loop=0,
            duration=[120] * (levels - 1) + [1500],
        )
    return strip, animation
