"""Layouts: which class every pixel of a picture belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from basis_cli.api import Dataset, InputError

from .classes import CLASSES as CLASSES

NEAR = 12
"""Levels of a channel by which a pixel may miss the colour of its class: lossy files."""


def read(source: Path | str) -> np.ndarray:
    """The classes ``(h, w)`` in a picture: gray levels or a palette's numbers below ten, or :data:`CLASSES`' colours.

    Raises:
        InputError: it cannot be read, or has other colours, which are named.
    """
    try:
        with Image.open(source) as file:
            pixels = np.asarray(file if file.mode in ("L", "P", "1") else file.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{source} cannot be read: {error}", "a PNG whose pixels are classes") from error
    if pixels.ndim == 2:
        return _numbered(pixels, str(source))
    return _coloured(pixels, str(source))


def classes_of(pixels: np.ndarray, name: str) -> np.ndarray:
    """The same of a picture ``(3, h, w)`` in [0, 1] that came without a file."""
    levels = np.moveaxis((pixels * 255 + 0.5).astype(np.uint8), 0, -1)
    gray = (levels == levels[..., :1]).all() and levels.max() < len(CLASSES)
    return _numbered(levels[..., 0], name) if gray else _coloured(levels, name)


def drawn(classes: np.ndarray) -> np.ndarray:
    """``(h, w)`` as a picture ``(3, h, w)`` float32 in [0, 1]."""
    colours = np.array(list(CLASSES.values()), np.float32) / 255
    return np.ascontiguousarray(np.moveaxis(colours[classes], -1, 0))


def _numbered(pixels: np.ndarray, source: str) -> np.ndarray:
    found = [int(value) for value in np.unique(pixels) if value >= len(CLASSES)]
    if found:
        names = ", ".join(f"{i} {name}" for i, name in enumerate(CLASSES))
        raise InputError(f"{source} has the values {_few(found)}, which are no classes", names)
    return pixels.astype(np.uint8)


def _coloured(pixels: np.ndarray, source: str) -> np.ndarray:
    colours = np.array(list(CLASSES.values()), np.int16)
    off = np.abs(pixels[:, :, None].astype(np.int16) - colours).max(-1)
    unknown = pixels[off.min(-1) > NEAR]
    if len(unknown):
        found = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(unknown, axis=0)]
        hint = ", ".join(f"{name} #{r:02x}{g:02x}{b:02x}" for name, (r, g, b) in CLASSES.items())
        raise InputError(f"{source} has the colours {_few(found)}, which are no classes", hint)
    return off.argmin(-1).astype(np.uint8)


def _few(values: Sequence[object], most: int = 5) -> str:
    return ", ".join(map(str, values[:most])) + (f" and {len(values) - most} more" if len(values) > most else "")


def load(folder: Path, split: str) -> Dataset:
    """Pictures and their classes: ``(n, 4, h, w)`` uint8, the last channel the classes.

    The folder holds ``SPLIT/images/NAME.png`` and ``SPLIT/labels/NAME.png``, all of one size.

    Raises:
        InputError: it does not, or a file is damaged.
    """
    names = sorted(path.name for path in (folder / split / "labels").glob("*.png"))
    if not names:
        raise InputError(
            f"no layouts in {folder / split / 'labels'}", "SPLIT/images/NAME.png and SPLIT/labels/NAME.png"
        )
    pairs: list[np.ndarray] = []
    for name in names:
        try:
            with Image.open(folder / split / "images" / name) as file:
                picture = np.asarray(file.convert("RGB"))
        except OSError as error:
            raise InputError(f"{folder / split / 'images' / name} cannot be read: {error}") from error
        labels = read(folder / split / "labels" / name)
        if picture.shape[:2] != labels.shape or (pairs and picture.shape[:2] != pairs[0].shape[1:]):
            raise InputError(f"{name} has another size than its layout, or than the others")
        pairs.append(np.concatenate([np.moveaxis(picture, -1, 0), labels[None]]))
    return Dataset(folder.name, split, np.stack(pairs), np.zeros(len(pairs), np.int64))
