"""The oracle: small priors whose posterior is exact, and what it takes for a sampler's samples to agree with it.

Every property compared (mean, covariance, mode weights) is the expectation of some function, so one rule decides: the
samples' average must lie within four standard errors of the exact value, plus the bias that the test states.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from basis_toy.prior import GaussianMixture, soft_blobs
from torch import Tensor

SHAPE = (1, 2, 2)


@dataclass(frozen=True)
class Moment:
    """The average of ``values`` ``(n, ...)`` beside its exact expectation."""

    values: Tensor
    exact: Tensor

    def check(self, name: str, bias: float) -> None:
        average, n = self.values.mean(0), len(self.values)
        allowed = 4 * self.values.std(0) / math.sqrt(n) + bias + 1 / n
        excess = (average - self.exact).abs() / allowed
        assert torch.isfinite(average).all(), f"{name} is not finite"
        worst = int(excess.argmax())
        assert excess.max() <= 1, (
            f"{name}[{worst}] is {average.flatten()[worst]:.4f}, exactly {self.exact.flatten()[worst]:.4f}, "
            f"allowed +- {allowed.flatten()[worst]:.4f}"
        )


@dataclass(frozen=True)
class Comparison:
    """Samples beside the exact posterior, in units of its standard deviations."""

    mean: Moment
    """Of ``z = (x - E[x]) / std(x)``, each value by its exact mean and standard deviation: exactly zero."""
    covariance: Moment
    """Of ``z z^T``: exactly the correlation matrix; the diagonal is the ratio of the variances."""
    weights: Moment
    """Of the responsibilities of the posterior's modes for ``x``: exactly their weights."""

    def check(self, mean: float = 0, covariance: float = 0, weights: float = 0) -> None:
        """Assert agreement up to Monte-Carlo error; the arguments state a sampler's known bias in each moment."""
        self.mean.check("mean", mean)
        self.covariance.check("covariance", covariance)
        self.weights.check("weights", weights)


def _compare(samples: Tensor, posterior: GaussianMixture) -> Comparison:
    x = samples.double().transpose(0, 1)
    spread = posterior.covariance.diagonal().sqrt()
    z = (x.flatten(1) - posterior.mean) / spread
    return Comparison(
        Moment(z, torch.zeros_like(spread)),
        Moment(z[:, :, None] * z[:, None, :], posterior.covariance / spread[:, None] / spread),
        Moment(posterior.responsibilities(x), posterior.weights),
    )


def _calibration(samples: Tensor, truth: Tensor) -> float:
    samples = samples.double()
    error = (samples.mean(0) - truth).square().mean() / (1 + 1 / len(samples))
    return float((samples.var(0).mean() / error).sqrt())


@pytest.fixture(scope="session")
def compare() -> Callable[[Tensor, GaussianMixture], Comparison]:
    """``compare(samples, posterior)`` for ``samples`` ``(k, n, c, h, w)`` as a sampler returns them."""
    return _compare


@pytest.fixture(scope="session")
def calibration() -> Callable[[Tensor, Tensor], float]:
    """``calibration(samples, truth)``: spread of ``(s, ...)`` samples over the error of their mean; 1 is honest.

    Below 1 the sampler is too sure of itself. The finite number ``s >= 2`` of samples is allowed for.
    """
    return _calibration


@pytest.fixture(scope="session")
def gaussian() -> GaussianMixture:
    """Correlated pixels, ``(1, 2, 2)``."""
    return soft_blobs(SHAPE, std=0.3, length=1.5)


@pytest.fixture(scope="session")
def mixture() -> GaussianMixture:
    """Two modes of unequal weight and width, ``(1, 2, 2)``: apart at noise 0, still joined at noise 0.2."""
    means = torch.tensor([[0.65, 0.65, 0.35, 0.35], [0.35, 0.3, 0.65, 0.65]])
    covariances = torch.stack([0.05**2 * torch.eye(4), 0.1**2 * torch.eye(4)])
    return GaussianMixture(torch.tensor([0.65, 0.35]), means, covariances, SHAPE)
