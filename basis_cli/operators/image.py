"""One picture that lost its colour, a part, or its pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from .base import Constant, Linear, resampled

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in what most programs call gray (ITU-R BT.601)."""


class Gray(Linear):
    """``y = sum_c w_c x_c``, equation 14: ``(1, n, c, h, w) -> (n, 1, h, w)``, the mean of the channels by default.

    Args:
        weights: one for each channel, by default a third each; or :data:`LUMA`.

    Raises:
        UsageError: no weights, or all of them zero, NaN or infinite.
    """

    k = 1

    def __init__(self, weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3)):
        if not any(weights) or not all(map(math.isfinite, weights)):
            raise UsageError(f"channel weights must be finite and not all zero, got {list(weights)}")
        self.gram = (sum(w * w for w in weights),)
        self.scale = math.sqrt(self.gram[0])
        self.weights = tuple(weights)
        self._weights = Constant(torch.tensor(weights, dtype=torch.float64).view(-1, 1, 1))

    def __call__(self, x: Tensor) -> Tensor:
        return (self._weights.like(x) * x[0]).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return (self._weights.like(y) * y)[None]

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y) / self.gram[0]


class Mask(Linear):
    """``y = known * x``: some values are seen as they are, the others are 0: ``(1, n, c, h, w) -> (n, c, h, w)``.

    Args:
        known: 1 or true where a value is seen; ``(h, w)``, or ``(c, h, w)``.

    Raises:
        UsageError: nothing is known.
    """

    k, scale = 1, 1.0
    gram = (1.0,)

    def __init__(self, known: Tensor):
        if not known.any():
            raise UsageError("the mask leaves nothing of the picture", "white is unknown; --invert-mask turns it round")
        self._known = Constant(known.bool())

    def __call__(self, x: Tensor) -> Tensor:
        return self._known.like(x) * x[0]

    def adjoint(self, y: Tensor) -> Tensor:
        return (self._known.like(y) * y)[None]

    pinv = adjoint


class Downsample(Linear):
    """Pictures at ``1 / factor`` of their size: ``(1, n, c, h, w) -> (n, c, h / factor, w / factor)``.

    Args:
        factor: at least 2, or 1 for nothing.
        size: ``(h, w)``, multiples of ``factor``.
        method: ``box`` averages ``factor x factor`` pixels; ``bicubic`` is Pillow's (antialiased, a = -0.5).

    Raises:
        UsageError: an unknown method, or ``factor`` does not divide the size.
    """

    k = 1

    def __init__(self, factor: int, size: tuple[int, int], method: str = "box"):
        if method not in ("box", "bicubic"):
            raise UsageError(f"no way to shrink is called {method!r}", "box or bicubic")
        if factor < 1 or any(side % factor for side in size):
            raise UsageError(f"{size[1]} x {size[0]} pixels cannot be shrunk {factor} times", "another --factor")
        self.method = method
        rows, columns = (shrinking(side, factor, method) for side in size)
        self._down = Constant(rows), Constant(columns)
        self._up = tuple(Constant(torch.linalg.solve(m @ m.T, m).T) for m in (rows, columns))  # A^T (A A^T)^-1
        self.gram = (factor**-2.0,) if method == "box" else None
        self.scale = math.sqrt(float((rows @ rows.T).diagonal().mean() * (columns @ columns.T).diagonal().mean()))

    def __call__(self, x: Tensor) -> Tensor:
        return resampled(self._down, x[0])

    def adjoint(self, y: Tensor) -> Tensor:
        return resampled(self._down, y, transposed=True)[None]

    def pinv(self, y: Tensor) -> Tensor:
        return resampled(self._up, y)[None]


def shrinking(side: int, factor: int, method: str) -> Tensor:
    """The matrix ``(side / factor, side)`` that shrinks one axis."""
    if method == "box":
        return torch.eye(side // factor, dtype=torch.float64).repeat_interleave(factor, dim=1) / factor
    image = torch.eye(side, dtype=torch.float64)[None, None]  # Pillow's filter is torch's with antialias
    return F.interpolate(image, (side // factor, side), mode="bicubic", antialias=True, align_corners=False)[0, 0]
