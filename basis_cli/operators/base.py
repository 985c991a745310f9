"""Measurement operators: how the unknown pictures ``x`` ``(k, n, c, h, w)`` make the observed one ``y = A x``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.special import log_ndtr

if TYPE_CHECKING:
    from .blur import Blurred
    from .mixture import Mixture, Mixtures

Noise = float | Tensor
"""A standard deviation of white noise: of all values, or of each."""
TINY = 1e-6
"""The share of a variance that an observation without noise is taken to leave: no division by zero."""


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

    @property
    def gram(self) -> tuple[float, ...] | None:
        """``c_i`` of ``A_i A_i^T = c_i I`` on what ``A`` can give, ``A_i`` being what it does to picture ``i``.

        Systems in ``A A^T`` are then divisions. ``None`` if it is no multiple of the identity.
        """

    def adjoint(self, y: Tensor) -> Tensor:
        """``A^T y``, shaped like ``x``."""

    def pinv(self, y: Tensor) -> Tensor:
        """``A^+ y``, the smallest ``x`` with ``A x = y`` (Moore-Penrose)."""


@runtime_checkable
class Constraint(Operator, Protocol):
    """An operator that knows the nearest pictures that explain ``y``; every linear one does."""

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """The ``x'`` nearest to ``x`` with ``A(x') = y``."""


class Record(Constraint, Protocol):
    """How values are kept: an operator that knows what an observation does to Gaussian beliefs."""

    def update(self, mean: Tensor, variance: Tensor, y: Tensor, noise_std: Noise = 0.0) -> tuple[Tensor, Tensor]:
        """Mean and variance of each value of ``x`` given ``y``, when before it they were independent Gaussians.

        ``mean`` is ``(k, n, c, h, w)``, and ``variance`` broadcastable to it.
        """


@runtime_checkable
class Updating(Record, Protocol):
    """Pictures laid over each other: all that :func:`basis_cli.samplers.ep` asks for."""

    @property
    def nominal(self) -> Mixture | Mixtures | Blurred:
        """The linear operator that it is, or is like, at pixels of which all is seen: what noise levels depend on."""

    def forecast(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each value of ``A(x)``, ``x`` being independent Gaussians, approximately."""


def consistent(x: Tensor, operator: Operator, y: Tensor, rounds: int = 8) -> Tensor:
    """``x`` ``(k, n, c, h, w)`` moved a little: ``A x = y`` and [0, 1] hold to a fraction of a level.

    Alternating projections onto both convex sets, which hold the true pictures: no round takes ``x`` farther from them
    if the operator is linear. Onto [0, 1] alone if the operator is no :class:`Constraint`.
    """
    if not isinstance(operator, Constraint):
        return x.clamp(0, 1)
    for _ in range(rounds):
        x = operator.project(x, y).clamp(0, 1)
    return x


class Linear(ABC):
    """What linear operators share."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def pinv(self, y: Tensor) -> Tensor: ...

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """``x + A^+ (y - A x)``, the nearest solution of ``A x = y``."""
        return x + self.pinv(y - self(x))


class Constant:
    """A tensor that operators compute with, kept on every device it was used on: copying makes a GPU's host wait."""

    def __init__(self, values: Any):
        self.values = torch.as_tensor(values)
        self._copies: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """With the type of ``x``, on its device."""
        key = x.dtype, x.device
        if key not in self._copies:
            self._copies[key] = self.values.to(x.dtype).to(x.device)  # Apple GPUs have no float64
        return self._copies[key]


def resampled(matrices: tuple[Constant, ...], x: Tensor, transposed: bool = False) -> Tensor:
    """The rows of ``x`` ``(..., h, w)`` combined by the first matrix, the columns by the second; never in bfloat16."""
    rows, columns = (m.like(x).T if transposed else m.like(x) for m in matrices)
    with torch.autocast(x.device.type, enabled=False):
        return rows @ x @ columns.T


class Unobserved(Linear):
    """Nothing is measured, so the posterior is the prior: ``y`` has no values. Unconditional sampling."""

    k, scale = 1, 1.0
    gram = (1.0,)

    def __init__(self, shape: tuple[int, int, int]):
        self.shape = shape

    def __call__(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[1], 0)

    def adjoint(self, y: Tensor) -> Tensor:
        return y.new_zeros(1, len(y), *self.shape)

    pinv = adjoint


class Forward:
    """An operator of which only the forward is known: any differentiable function of ``x`` ``(k, n, c, h, w)``.

    Samplers that take every operator (``conjugate``, ``mmps``, ``langevin``) get its adjoint by automatic
    differentiation.

    Args:
        scale: see :class:`Operator`.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], k: int = 1, scale: float = 1.0):
        self.forward, self.k, self.scale = forward, k, scale

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)


class Derivative:
    """The derivative of a differentiable operator at ``x`` ``(k, n, c, h, w)``, with its adjoint."""

    def __init__(self, operator: Operator, x: Tensor):
        self.operator, self.x = operator, x.detach().clone()

    def __call__(self, v: Tensor) -> Tensor:
        with torch.enable_grad():
            return torch.func.jvp(self.operator, (self.x,), (v,))[1].detach()

    def adjoint(self, u: Tensor) -> Tensor:
        with torch.enable_grad():
            _, pullback = torch.func.vjp(self.operator, self.x)  # type: ignore[misc]
            return pullback(u)[0].detach()


def misfit(operator: Operator, x: Tensor, y: Tensor) -> Tensor:
    """``y - A x``; where only an interval of ``A x`` is known, how far outside it is."""
    inside = getattr(operator, "inner", None)
    return y - operator(x) if inside is None else operator.nearest(z := inside(x), y) - z  # type: ignore[attr-defined]


def log_normal(z: Tensor) -> Tensor:
    """The logarithm of the standard normal density."""
    return -0.5 * (z.square() + math.log(2 * math.pi))


def truncated(mean: Tensor, variance: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of Gaussians given that they lie in the interval from ``low`` to ``high``."""
    std = variance.sqrt()
    near, far = (low - mean) / std, (high - mean) / std
    flipped = near + far > 0  # to the left tail, where log_ndtr is exact
    near, far = torch.where(flipped, -far, near), torch.where(flipped, -near, far)
    log_share = log_ndtr(far) + torch.log1p(-(log_ndtr(near) - log_ndtr(far)).exp())
    at_near, at_far = ((log_normal(z) - log_share).exp() for z in (near, far))
    shift = at_near - at_far
    second = torch.nan_to_num(near * at_near, 0, 0, 0) - torch.nan_to_num(far * at_far, 0, 0, 0)
    width = high - low
    narrow = far - near < 0.1
    inside = torch.where(narrow, (low + high) / 2, mean + std * torch.where(flipped, -shift, shift))
    left = torch.where(narrow, width.square() / 12, variance * (1 + second - shift.square()))
    return inside.maximum(low).minimum(high), left.clamp_min(0).minimum(variance) + TINY * variance


def linearized(operator: Operator, x: Tensor) -> LinearOperator | Derivative:
    """``operator`` itself if it is linear, else its derivative at ``x``."""
    if isinstance(inside := getattr(operator, "inner", None), LinearOperator):
        return inside
    return operator if isinstance(operator, LinearOperator) else Derivative(operator, x)
