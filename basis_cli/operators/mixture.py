"""Pictures that were laid over each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UsageError
from .base import Constant, Linear


class Mixture(Linear):
    """``y = sum_i alpha_i x_i``, equation 1: ``(k, n, c, h, w) -> (n, c, h, w)``.

    Raises:
        UsageError: no coefficient, or one that is zero, NaN or infinite.
    """

    def __init__(self, alpha: Sequence[float]):
        if not alpha or not all(math.isfinite(a) and a != 0 for a in alpha):
            raise UsageError(f"mixing coefficients must be finite and not zero, got {list(alpha)}")
        self.alpha = tuple(float(a) for a in alpha)
        self.k = len(self.alpha)
        self.gram = tuple(a * a for a in self.alpha)
        self.scale = math.sqrt(sum(self.gram) / self.k)
        self._coefficients = Constant(torch.tensor(self.alpha, dtype=torch.float64).view(-1, 1, 1, 1, 1))

    def __call__(self, x: Tensor) -> Tensor:
        return (self._coefficients.like(x) * x).sum(0)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._coefficients.like(y) * y

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y) / sum(self.gram)
