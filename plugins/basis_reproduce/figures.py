"""What several experiments draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from . import Row

PUBLISHED, OURS = "#888888", "#4477aa"


def sheet(axes: Any, pictures: Tensor, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> None:
    """Draw ``pictures`` ``(rows, columns, c, h, w)``, clipped to [0, 1], as one labelled contact sheet."""
    r, q, c, h, w = pictures.shape
    canvas = np.ones((r * (h + 2) - 2, q * (w + 2) - 2, c), np.float32)
    for i in range(r):
        for j in range(q):
            picture = pictures[i, j].clamp(0, 1).cpu().numpy()
            canvas[i * (h + 2) : i * (h + 2) + h, j * (w + 2) : j * (w + 2) + w] = picture.transpose(1, 2, 0)
    axes.imshow(canvas if c == 3 else canvas[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([j * (w + 2) + w / 2 for j in range(len(columns))], columns, fontsize=8)
    axes.set_yticks([i * (h + 2) + h / 2 for i in range(len(rows))], rows, fontsize=8)
    axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def beside(figure: Any, rows: Sequence[Row], label: str) -> None:
    """Dots: published, untouched and ours for every row that has numbers."""
    axes = figure.subplots()
    shown = [row for row in rows if isinstance(row.published, (int, float)) or isinstance(row.ours, (int, float))]
    for y, row in enumerate(reversed(shown)):
        if isinstance(row.published, (int, float)):
            axes.plot(row.published, y, "D", color=PUBLISHED, markersize=6)
        if row.untouched is not None:
            axes.plot(row.untouched, y, "x", color=PUBLISHED, markersize=6)
        if isinstance(row.ours, (int, float)):
            axes.errorbar(row.ours, y, xerr=row.error, fmt="o", color=OURS, markersize=5, capsize=3)
    axes.set_yticks(range(len(shown)), [row.what for row in reversed(shown)], fontsize=8)
    axes.set_xlabel(label)
    if any(isinstance(row.published, (int, float)) for row in shown):
        axes.plot([], [], "D", color=PUBLISHED, label="published")
    if any(row.untouched is not None for row in shown):
        axes.plot([], [], "x", color=PUBLISHED, label="untouched")
    axes.plot([], [], "o", color=OURS, label="ours")
    axes.legend(fontsize=8)
    axes.grid(axis="x", alpha=0.3)
