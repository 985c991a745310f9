"""Pictures that were laid over each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.special import log_ndtr

from ..errors import UsageError
from .base import TINY, Constant, Linear, Noise, log_normal, truncated


class Named:
    """An operator that a record calls by its class."""

    def __str__(self) -> str:
        return type(self).__name__


class Superposition(Named):
    """Pictures laid over each other pixel by pixel: near ``x``, a sum of them with :meth:`coefficients`."""

    def coefficients(self, x: Tensor) -> Tensor:
        """The derivative of the operator at ``x`` ``(k, n, c, h, w)``, broadcastable to it."""
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        return (self.coefficients(x) * x).sum(0)

    def forecast(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of ``A x``, ``(n, c, h, w)``, of pictures with these."""
        return self(mean), (self.coefficients(mean).square() * variance).sum(0)

    def absorb(self, mean: Tensor, variance: Tensor, seen: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of ``x`` when those of ``A x`` turn out to be ``seen`` and ``left``."""
        expected, spread = self.forecast(mean, variance)
        gain = variance * self.coefficients(mean) / spread
        return mean + gain * (seen - expected), variance + gain.square() * (left - spread)

    def update(self, mean: Tensor, variance: Tensor, y: Tensor, noise_std: Noise = 0.0) -> tuple[Tensor, Tensor]:
        """See :class:`basis_cli.operators.Updating`; a Gaussian belief stays one."""
        expected, spread = self.forecast(mean, variance)
        noise = noise_std**2 + TINY * spread
        seen = expected + spread / (spread + noise) * (y - expected)
        return self.absorb(mean, variance, seen, spread * noise / (spread + noise))

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """See :class:`basis_cli.operators.Constraint`; exact where the operator is linear, else a step of Newton's."""
        coefficients = self.coefficients(x)
        return x + coefficients * (y - self(x)) / coefficients.square().sum(0).clamp_min(TINY)


class Mixture(Superposition, Linear):
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

    @property
    def nominal(self) -> Mixture:
        return self

    @property
    def columns(self) -> tuple[float, ...]:
        """What tells pictures of one prior apart: their coefficients."""
        return self.alpha

    def coefficients(self, x: Tensor) -> Tensor:
        return self._coefficients.like(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._coefficients.like(y) * y

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y) / sum(self.gram)


class Unknown(Superposition):
    """A mixture whose coefficients are not known: ``alpha`` at first, then fitted to each picture.

    Args:
        each: the coefficients of each picture ``(k, n, 1, 1, 1)``, once fitted.
        below: the noise level below which a sampler fits them. Above it its estimates are still each other's.
    """

    def __init__(self, alpha: Sequence[float], each: Tensor | None = None, below: float = 0.5):
        self.nominal, self.each, self.below = Mixture(alpha), each, below
        self.k, self.scale = self.nominal.k, self.nominal.scale

    def coefficients(self, x: Tensor) -> Tensor:
        """``(k, n, 1, 1, 1)`` once fitted."""
        return self.nominal.coefficients(x) if self.each is None else self.each

    def fitted(self, x: Tensor, y: Tensor, share: float = 1.0) -> Unknown:
        """With coefficients moved by a ``share`` of the way to those with which ``x`` explains ``y`` best.

        Least squares, as :func:`explaining`.
        """
        best = explaining(x, y).T.clamp(LEAST, 1 - LEAST).view(self.k, -1, 1, 1, 1)
        before = self.coefficients(x)
        return Unknown(self.nominal.alpha, before + share * (best - before), self.below)


LEAST = 0.05
"""The smallest coefficient that is looked for: a fainter component is lost in the other's detail."""


def explaining(x: Tensor, y: Tensor) -> Tensor:
    """The coefficients ``(n, k)`` with which ``x`` ``(k, n, c, h, w)`` explains ``y`` ``(n, c, h, w)`` best.

    Least squares, with ``(sum_i alpha_i - 1)^2`` as if of one more pixel: eight-bit files hold means.
    """
    seen = torch.cat([x.clamp(0, 1).flatten(2), torch.ones_like(x[..., :1, :1, :1]).flatten(2)], dim=2)
    target = torch.cat([y.flatten(1), torch.ones_like(y[:, :1, :1, :1]).flatten(1)], dim=1)
    squares = torch.einsum("ind,jnd->nij", seen, seen) + TINY * torch.eye(len(x), device=x.device, dtype=x.dtype)
    return torch.linalg.solve(squares, torch.einsum("ind,nd->ni", seen, target))


class Screen(Superposition):
    """``1 - y = (1 - x_1) ... (1 - x_k)``, as projectors and image editors lay light over light."""

    def __init__(self, k: int):
        self.k, self.scale, self.nominal = k, 1.0, Mixture([1 / k] * k)

    def __call__(self, x: Tensor) -> Tensor:
        return 1 - (1 - x).prod(0)

    def coefficients(self, x: Tensor) -> Tensor:
        dark = (1 - x).clamp(0.01, 1)  # white over white: neither is known, but no division by zero
        return torch.stack([torch.cat([dark[:i], dark[i + 1 :]]).prod(0) for i in range(self.k)])


class Maximum(Named):
    """``y = max_i x_i``, pixel by pixel: what image editors call lighten."""

    def __init__(self, k: int):
        self.k, self.scale, self.nominal = k, 1.0, Mixture([1 / k] * k)

    def __call__(self, x: Tensor) -> Tensor:
        return x.amax(0)

    def forecast(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`basis_cli.operators.Updating`, of the picture that is brightest in the mean."""
        first = mean.argmax(0, keepdim=True)
        return self(mean), variance.expand_as(mean).gather(0, first)[0]

    def update(self, mean: Tensor, variance: Tensor, y: Tensor, noise_std: Noise = 0.0) -> tuple[Tensor, Tensor]:
        """Exact for Gaussian beliefs: one picture is ``y``, each with a probability, and the others lie below."""
        variance = variance.expand_as(mean)
        z = (y - mean) / (variance + noise_std**2).sqrt()
        first = (log_normal(z) - variance.log() / 2 - log_ndtr(z)).softmax(0)  # p_i(y) / P_i(y), but for a factor
        under, left = truncated(mean, variance, torch.zeros_like(y), y.clamp_min(0))
        noise = noise_std**2 + TINY * variance
        known = mean + variance / (variance + noise) * (y - mean)
        spread = first * variance * noise / (variance + noise) + (1 - first) * left
        return first * known + (1 - first) * under, spread + first * (1 - first) * (known - under).square()

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """See :class:`basis_cli.operators.Constraint`: all cut to ``y``, the one that is nearest to it raised."""
        first = x == x.amax(0)
        return torch.where(first, y.expand_as(x), x.minimum(y))


class Mixtures(Named, Linear):
    """Several observations of the same pictures: ``y_m = sum_i alpha_mi x_i``, ``(k, n, c, h, w) -> (n, m c, h, w)``.

    Args:
        alpha: a row of coefficients for each observation.

    Raises:
        UsageError: rows of different lengths, numbers that are not finite, or a picture that none observes.
    """

    gram = None

    def __init__(self, alpha: Sequence[Sequence[float]]):
        if (
            not alpha
            or len({len(row) for row in alpha}) != 1
            or not all(math.isfinite(a) for row in alpha for a in row)
        ):
            raise UsageError(f"mixing coefficients must be finite, as many for each mixture, got {alpha}")
        matrix = torch.tensor([list(row) for row in alpha], dtype=torch.float64)
        if not (matrix != 0).any(0).all():
            raise UsageError("a component has coefficient 0 in every mixture", "--alpha")
        self.k = matrix.shape[1]
        self.matrix = tuple(tuple(map(float, row)) for row in alpha)
        self.alpha = tuple(float(a) for a in matrix.square().sum(0).sqrt())
        self.scale = math.sqrt(sum(a * a for a in self.alpha) / matrix.numel())
        self._rows, self._pinv = Constant(matrix[None]), Constant(torch.linalg.pinv(matrix[None]))

    @property
    def nominal(self) -> Mixtures:
        return self

    @property
    def columns(self) -> tuple[tuple[float, ...], ...]:
        """What tells pictures of one prior apart: their coefficients in all observations."""
        return tuple(zip(*self.matrix, strict=True))

    def forecast(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`basis_cli.operators.Updating`."""
        return self(mean), torch.einsum("nmk,knchw->nmchw", self._rows.like(mean).square(), variance).flatten(1, 2)

    def each(self, y: Tensor) -> Tensor:
        """The observations ``(n, m, c, h, w)``."""
        return y.unflatten(1, (len(self.matrix), -1))

    def __call__(self, x: Tensor) -> Tensor:
        return torch.einsum("nmk,knchw->nmchw", self._rows.like(x), x).flatten(1, 2)

    def adjoint(self, y: Tensor) -> Tensor:
        return torch.einsum("nmk,nmchw->knchw", self._rows.like(y), self.each(y))

    def pinv(self, y: Tensor) -> Tensor:
        return torch.einsum("nkm,nmchw->knchw", self._pinv.like(y), self.each(y))

    def update(self, mean: Tensor, variance: Tensor, y: Tensor, noise_std: Noise = 0.0) -> tuple[Tensor, Tensor]:
        """See :class:`basis_cli.operators.Updating`; for one variance a picture, ``(k, 1, 1, 1, 1)``, and one noise."""
        prior = variance.flatten().double()
        rows = self._rows.like(prior)
        noise = torch.as_tensor(noise_std).to(prior).square() + TINY * (rows.square() @ prior).amax()
        spread = rows * prior @ rows.mT + noise * torch.eye(rows.shape[1], dtype=prior.dtype, device=prior.device)
        gain = prior[:, None] * torch.linalg.solve(spread, rows).mT  # (n, k, m)
        left = prior - (gain * rows.mT).sum(2) * prior
        moved = torch.einsum("nkm,nmchw->knchw", gain.to(mean.dtype), self.each(y - self(mean)))
        return mean + moved, left.T.to(mean.dtype)[..., None, None, None]


class UnknownMixtures(Mixtures):
    """:class:`Mixtures` whose coefficients are not known: ``alpha`` at first, then fitted to each picture.

    Args:
        rows: ``(n, m, k)``, once fitted.
    """

    below = 0.3
    """As of :class:`Unknown`; what edges tell is better than estimates above it."""

    def __init__(self, alpha: Sequence[Sequence[float]], rows: Tensor | None = None):
        super().__init__(alpha)
        self.rows = rows
        if rows is not None:
            self._rows, self._pinv = Constant(rows), Constant(torch.linalg.pinv(rows))

    @property
    def nominal(self) -> Mixtures:
        return Mixtures(self.matrix)

    @property
    def columns(self) -> tuple[Any, ...]:
        """Nothing tells them apart."""
        return (None,) * self.k

    def fitted(self, x: Tensor, y: Tensor, share: float = 1.0) -> UnknownMixtures:
        """With coefficients moved by a ``share`` of the way to those with which ``x`` explains ``y`` best."""
        best = torch.stack([explaining(x, one) for one in self.each(y).unbind(1)], dim=1).clamp(0, 1)
        before = self._rows.like(x)
        return UnknownMixtures(self.matrix, before + share * (best - before))

    def begun(self, y: Tensor) -> UnknownMixtures:
        """With coefficients that the edges of ``y`` tell.

        Where only component ``i`` has an edge, the differences of neighbouring pixels stand in all observations as its
        coefficients do. So these differences, large ones above all, lie near as many lines through zero as there are
        components (Gai et al. 2012): the means of ``k`` clusters, scaled so that every row has the sum 1.
        """
        each = self.each(y)
        down, right = each[..., 1:, :] - each[..., :-1, :], each[..., 1:] - each[..., :-1]
        edges = torch.cat([down.flatten(2), right.flatten(2)], dim=2)  # (n, m, d)
        lines = torch.stack([_lines(one.T.double(), self.k) for one in edges])  # (n, k, m)
        ones = torch.ones(len(y), edges.shape[1], 1, dtype=lines.dtype, device=lines.device)
        scale = torch.linalg.lstsq(lines.mT.cpu(), ones.cpu()).solution.to(lines.device)
        return UnknownMixtures(self.matrix, (lines * scale).mT.clamp(LEAST, 1 - LEAST).to(y.dtype))


def _lines(points: Tensor, k: int) -> Tensor:
    """The directions ``(k, m)`` of ``k`` lines through zero that most of ``points`` ``(d, m)`` lie near.

    ``k`` clusters of directions, and of each its densest place: what lies between the lines is of several components.
    """
    points = points[points.norm(dim=1).argsort(descending=True, stable=True)[:FARTHEST]]
    length = points.norm(dim=1, keepdim=True)
    directions = torch.where(points.sum(1, keepdim=True) < 0, -points, points) / length.clamp_min(TINY)
    weight, order = length.square(), directions[:, 0].argsort(stable=True)
    share = weight[order].cumsum(0).flatten() / weight.sum().clamp_min(TINY)
    first = torch.searchsorted(share, (torch.arange(k).to(share) + 0.5) / k).clamp_max(len(order) - 1)
    lines = directions[order][first]
    for _ in range(10):
        own = torch.nn.functional.one_hot((directions @ lines.T).argmax(1), k) * weight  # (d, k)
        lines = torch.nn.functional.normalize(own.T @ directions, dim=1)
    off = (1 - (directions @ directions.T).square()).clamp_min(0)
    near = (1 + off / NARROW**2) ** -2  # (d, d)
    densest = (near @ own * (own > 0)).argmax(0)
    return torch.nn.functional.normalize((near[densest] * own.T) @ directions, dim=1)


NARROW = 0.02
"""The sine of the angle up to which an edge is taken to be of one component only."""
FARTHEST = 2000
"""As many of a picture's edges are looked at, the strongest."""
