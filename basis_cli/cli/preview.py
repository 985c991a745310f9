"""Pictures in a terminal: two pixels a character, one in its colour and one in its ground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ..posterior import Result

SHADES = " .:-=+*#%@"
"""From dark to light, where a terminal has no colours."""
WIDEST = 48
"""Characters for a picture."""


def answers(console: Console, result: Result) -> None:
    """Print one input and all its answers."""
    k, _, m, c = result.components.shape[:4]
    pictures = [("input", result.y[0, :c].numpy())] if result.y.ndim == 4 else []  # of several observations the first
    for sample in range(m):
        for i in range(k):
            label = " ".join([f"s{sample + 1}"] * (m > 1) + [f"x{i + 1}"])
            pictures.append((label, result.components[i, 0, sample].numpy()))
    side_by_side(console, pictures)


def side_by_side(console: Console, pictures: Sequence[tuple[str, np.ndarray]]) -> None:
    """Print named pictures ``(c, h, w)`` in [0, 1] side by side, in as many rows as the terminal's width needs."""
    each = max(8, min(WIDEST, (console.width - 2 * len(pictures)) // len(pictures), *[p.shape[2] for _, p in pictures]))
    across = max(1, console.width // (each + 2))
    for first in range(0, len(pictures), across):
        row = pictures[first : first + across]
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row(*(blocks(picture, each, console.color_system is not None) for _, picture in row))
        grid.add_row(*(Text(name, style="dim", overflow="ellipsis", no_wrap=True) for name, _ in row))
        console.print(grid)


def blocks(picture: np.ndarray, width: int, colours: bool = True) -> Text:
    """``(c, h, w)`` in [0, 1] as text of ``width`` characters a line, each half as wide as it is high."""
    _, h, w = picture.shape
    lines = max(1, round(h * width / w / 2))
    eight_bit = (np.clip(np.broadcast_to(picture, (3, h, w)), 0, 1) * 255 + 0.5).astype(np.uint8)
    image = Image.fromarray(np.moveaxis(eight_bit, 0, -1)).resize((width, 2 * lines), Image.Resampling.BOX)
    pixels = np.asarray(image)
    text = Text(no_wrap=True)
    for line in range(lines):
        for above, below in zip(pixels[2 * line], pixels[2 * line + 1], strict=True):
            if colours:
                text.append("▀", f"rgb({above[0]},{above[1]},{above[2]}) on rgb({below[0]},{below[1]},{below[2]})")
            else:
                text.append(SHADES[(int(above.mean()) + int(below.mean())) * (len(SHADES) - 1) // 510])
        text.append("\n" if line + 1 < lines else "")
    return text
