"""Gaussian mixtures: priors whose score, and whose posterior under any linear operator, are exact.

Everything is computed in float64. A single Gaussian is a mixture of one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from basis_cli.api import PriorSpec, WeightsError


class GaussianMixture:
    """``p(x) = sum_j weights_j N(x; means_j, covariances_j)`` over pictures of ``shape``, ``d`` values each.

    With noise it is a Gaussian mixture again, so this one class is both the prior and its levels: ``at(sigma)`` is
    the mixture with ``sigma^2`` added to every variance.

    Args:
        weights: ``(m,)``, positive or zero, scaled here to sum to one.
        means: ``(m, d)``.
        covariances: ``(m, d, d)``, symmetric and positive definite.
        shape: of a picture, ``d`` values in all; :func:`exact_posterior` uses ``(k, c, h, w)``.

    Raises:
        ValueError: shapes that do not fit together, a negative weight, or a covariance that is not positive definite.
    """

    sigmas: tuple[float, ...] | None = None  # any noise level will do

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor, shape: tuple[int, ...]):
        m, d = len(weights), math.prod(shape)
        if tuple(means.shape) != (m, d) or tuple(covariances.shape) != (m, d, d):
            raise ValueError(
                f"{m} weights and shape {shape} need means {(m, d)} and covariances {(m, d, d)}, "
                f"got {tuple(means.shape)} and {tuple(covariances.shape)}"
            )
        self.shape = shape
        self.weights, self.means, self.covariances = weights.double(), means.double(), covariances.double()
        if not (self.weights >= 0).all() or not self.weights.sum() > 0:
            raise ValueError(f"weights must be positive or zero, got {weights.tolist()}")
        self.weights = self.weights / self.weights.sum()
        variances, axes = torch.linalg.eigh(self.covariances)
        if not (variances > 0).all():
            raise ValueError(f"covariances must be positive definite; the smallest variance is {variances.min():.3g}")
        self.precisions = (axes / variances[:, None]) @ axes.mT
        self._roots = axes * variances.sqrt()[:, None]
        self._log_norms = self.weights.log() - 0.5 * (variances.log().sum(1) + d * math.log(2 * math.pi))

    def at(self, sigma: float) -> GaussianMixture:
        """The distribution of ``x + sigma z`` with white noise ``z``."""
        noise = sigma**2 * torch.eye(self.means.shape[1], dtype=torch.float64, device=self.means.device)
        return GaussianMixture(self.weights, self.means, self.covariances + noise, self.shape)

    def _terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of ``x`` ``(n, *shape)``: every component's log joint density ``(n, m)`` and gradient ``(n, m, d)``."""
        difference = self.means - x.to(self.means.device).double().flatten(1)[:, None]
        gradients = torch.einsum("nmd,mde->nme", difference, self.precisions)
        return self._log_norms - 0.5 * (difference * gradients).sum(2), gradients

    def score(self, x: Tensor) -> Tensor:
        """``grad log p(x)``: ``(n, *shape)`` of any float type to the same."""
        log_joint, gradients = self._terms(x)
        return (log_joint.softmax(1)[..., None] * gradients).sum(1).view_as(x).to(x.dtype).to(x.device)

    def log_prob(self, x: Tensor) -> Tensor:
        """``log p(x)`` in nats, ``(n,)``, of the type of ``x`` ``(n, *shape)``."""
        return self._terms(x)[0].logsumexp(1).to(x.dtype).to(x.device)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Probability ``(n, m)`` of each component given ``x`` ``(n, *shape)``; its expectation is ``weights``."""
        return self._terms(x)[0].softmax(1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` exact samples ``(n, *shape)``, float64; ``generator`` must be on the mixture's device."""
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(self.means[chosen].shape, dtype=torch.float64, device=self.means.device, generator=generator)
        return (self.means[chosen] + torch.einsum("nde,ne->nd", self._roots[chosen], z)).view(n, *self.shape)

    def to(self, device: torch.device | str) -> GaussianMixture:
        """The same mixture on ``device``."""
        return GaussianMixture(self.weights.to(device), self.means.to(device), self.covariances.to(device), self.shape)

    @property
    def mean(self) -> Tensor:
        """``E[x]``, ``(d,)``."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """``E[(x - E[x])(x - E[x])^T]``, ``(d, d)``."""
        apart = self.means - self.mean
        return torch.einsum("m,mde->de", self.weights, self.covariances + apart[:, :, None] * apart[:, None, :])


def exact_posterior(
    priors: Sequence[GaussianMixture], operator: Callable[[Tensor], Tensor], y: Tensor, noise_std: float
) -> GaussianMixture:
    """``p(x_1 ... x_k | y)`` for ``y = A x + noise_std z``: one Gaussian for each choice of a component of every prior.

    Pass ``prior.at(sigma)`` for the posterior that a sampler aims at when it stops at noise level ``sigma``.

    Args:
        priors: one for each unknown picture, all of one shape ``(c, h, w)``.
        operator: any linear ``A``, ``(k, n, c, h, w) -> (n, ...)``.
        y: one observation, without the batch axis.
        noise_std: above zero; with no noise the posterior has no density.

    Returns:
        A mixture of shape ``(k, c, h, w)``.
    """
    choices = itertools.product(*(zip(prior.weights, prior.means, prior.covariances, strict=True) for prior in priors))
    joint = [
        (torch.stack(weights).prod(), torch.cat(means), torch.block_diag(*covariances))
        for weights, means, covariances in (zip(*choice, strict=True) for choice in choices)
    ]
    weights, means, covariances = (torch.stack(parts) for parts in zip(*joint, strict=True))

    matrix = _matrix(operator, (len(priors), *priors[0].shape), like=means)
    noise = noise_std**2 * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    cross = covariances @ matrix.T  # Cov[x, y], (m, k d, p)
    observed = GaussianMixture(weights, means @ matrix.T, matrix @ cross + noise, (len(matrix),))
    gain = cross @ observed.precisions
    surprise = y.double().flatten() - observed.means
    return GaussianMixture(
        observed.responsibilities(y.flatten()[None])[0],
        means + torch.einsum("mdp,mp->md", gain, surprise),
        covariances - gain @ cross.mT,
        (len(priors), *priors[0].shape),
    )


def _matrix(operator: Callable[[Tensor], Tensor], shape: tuple[int, ...], like: Tensor) -> Tensor:
    """``A`` as a matrix ``(p, k d)``: what ``operator`` makes of every unit vector of shape ``(k, c, h, w)``."""
    size = math.prod(shape)
    units = torch.eye(size, dtype=like.dtype, device=like.device).view(size, *shape)
    return operator(units.transpose(0, 1)).flatten(1).T


def soft_blobs(shape: tuple[int, int, int], std: float = 0.2, length: float = 2.0) -> GaussianMixture:
    """One stationary Gaussian with a squared-exponential covariance: soft blobs, nearly all within [0, 1]."""
    c, h, w = shape
    pixels = torch.cartesian_prod(*(torch.arange(float(side), dtype=torch.float64) for side in (h, w)))
    smooth = torch.exp(-(torch.cdist(pixels, pixels) ** 2) / (2 * length**2))
    nugget = 1e-3 * torch.eye(h * w, dtype=torch.float64)  # keeps the smooth covariance invertible
    covariance = std**2 * torch.block_diag(*[smooth + nugget] * c)
    return GaussianMixture(torch.ones(1), torch.full((1, c * h * w), 0.5), covariance[None], shape)


def four_pictures(shape: tuple[int, int, int], std: float = 0.05) -> GaussianMixture:
    """Two bars, a disc and a ring, bright on dark, met in the ratio 4 : 3 : 2 : 1, each with white noise of ``std``."""
    c, h, w = shape
    down = torch.linspace(-1, 1, h)[:, None].expand(h, w)
    across = torch.linspace(-1, 1, w)[None, :].expand(h, w)
    radius = (down**2 + across**2).sqrt()
    masks = torch.stack([down.abs() < 0.3, across.abs() < 0.3, radius < 0.55, (radius > 0.65) & (radius < 1.1)])
    means = 0.1 + 0.8 * masks.double()[:, None].expand(4, c, h, w).flatten(1)
    covariances = (std**2 * torch.eye(c * h * w, dtype=torch.float64)).expand(4, -1, -1)
    return GaussianMixture(torch.tensor([0.4, 0.3, 0.2, 0.1]), means, covariances, shape)


PRIORS: dict[str, Callable[[tuple[int, int, int]], GaussianMixture]] = {
    "toy-gaussian": soft_blobs,
    "toy-mixture": four_pictures,
}


def load(spec: PriorSpec, weights: Path | None, device: torch.device) -> GaussianMixture:
    """The toy prior that ``spec`` names; there are no weights to read."""
    if weights is not None:
        raise WeightsError(f"{spec.name} takes no weights: it is a formula", "leave out --weights")
    assert spec.shape, "a toy is made for its shape"
    return PRIORS[spec.name](spec.shape).to("cpu" if device.type == "mps" else device)  # which has no float64
