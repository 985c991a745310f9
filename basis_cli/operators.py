"""Measurement operators: how the unknown pictures ``x`` ``(k, n, c, h, w)`` make the observed one ``y = A x``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .errors import UsageError


class Operator(Protocol):
    """``y = A(x)``, differentiable."""

    k: int
    """How many unknown pictures it takes."""
    scale: float
    """Standard deviation of ``A z``, per value, relative to what one picture with coefficient 1 gives; see
    :func:`basis_cli.samplers.langevin`."""

    def __call__(self, x: Tensor) -> Tensor:
        """``A(x)``."""


@runtime_checkable
class LinearOperator(Operator, Protocol):
    """``y = A x`` with its adjoint and its pseudo-inverse in closed form."""

    gram: tuple[float, ...]
    """``c_i`` of ``A_i A_i^T = c_i I``, where ``A_i`` is what the operator does to picture ``i``: every operator here
    measures orthogonally, so systems in ``A A^T`` are divisions."""

    def adjoint(self, y: Tensor) -> Tensor:
        """``A^T y``, shaped like ``x``."""

    def pinv(self, y: Tensor) -> Tensor:
        """``A^+ y``, the smallest ``x`` with ``A x = y`` (Moore-Penrose)."""


class Mixture:
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
        self._tensors: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def _coefficients(self, like: Tensor) -> Tensor:
        key = like.dtype, like.device
        if key not in self._tensors:  # once a device: copying them there makes the host wait
            with torch.inference_mode(False):  # so that gradients may flow through it later
                self._tensors[key] = torch.tensor(self.alpha, dtype=like.dtype, device=like.device).view(-1, 1, 1, 1, 1)
        return self._tensors[key]

    def __call__(self, x: Tensor) -> Tensor:
        return (self._coefficients(x) * x).sum(0)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._coefficients(y) * y

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y) / sum(self.gram)


class Unobserved:
    """Nothing is measured, so the posterior is the prior: ``y`` has no values. Unconditional sampling."""

    k, scale = 1, 1.0
    gram: tuple[float, ...] = (1.0,)

    def __init__(self, shape: tuple[int, int, int]):
        self.shape = shape

    def __call__(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[1], 0)

    def adjoint(self, y: Tensor) -> Tensor:
        return y.new_zeros(1, len(y), *self.shape)

    pinv = adjoint


class Derivative:
    """The derivative of a differentiable operator at ``x`` ``(k, n, c, h, w)``, with its adjoint."""

    def __init__(self, operator: Operator, x: Tensor):
        self.operator = operator
        with torch.inference_mode(False):
            self.x = x.detach().clone()

    def __call__(self, v: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            return torch.func.jvp(self.operator, (self.x,), (v.clone(),))[1].detach()

    def adjoint(self, u: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            _, pullback = torch.func.vjp(self.operator, self.x)
            return pullback(u.clone())[0].detach()


def linearized(operator: Operator, x: Tensor) -> LinearOperator | Derivative:
    """``operator`` itself if it is linear, else its derivative at ``x``."""
    return operator if isinstance(operator, LinearOperator) else Derivative(operator, x)
