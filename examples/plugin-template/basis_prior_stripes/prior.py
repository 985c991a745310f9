"""The prior itself: a picture is one of sixteen striped pictures plus a little noise.

Replace the mathematics by yours. What must stay is the interface: ``shape``, ``sigmas``, ``at(sigma)`` and, at a noise
level, ``score(x)``.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from basis_cli.api import PriorSpec

NOISE = 0.05  # standard deviation of a pixel around its stripe


def stripe_pictures() -> Tensor:
    """Four directions at four phases, ``(16, 1, 16, 16)``, in [0.1, 0.9].

    Pictures are floats from 0, black, to 1, white. If your model wants another range, such as [-1, 1], convert inside
    ``score`` and mind the chain rule: the gradient is by the picture in [0, 1].
    """
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    directions = torch.stack([rows, columns, rows + columns, rows - columns])
    phases = torch.arange(4.0).view(4, 1, 1, 1)
    waves = torch.cos(2 * math.pi * (directions / 8 + phases / 4))
    return 0.5 + 0.4 * waves.reshape(16, 1, 16, 16)


class Stripes:
    """The prior. No base class: having these three attributes is enough."""

    shape = (1, 16, 16)
    sigmas = None  # any noise level will do

    def __init__(self, device: torch.device):
        self.pictures = stripe_pictures().to(device)

    def at(self, sigma: float) -> StripesLevel:
        """The prior of noisy pictures ``x + sigma z``. Called once a level: a good place for what is slow."""
        return StripesLevel(self.pictures, NOISE**2 + sigma**2)


class StripesLevel:
    """The mixture ``p(x) = 1/m sum_j N(x; picture_j, variance)``, where noise has only widened the Gaussians."""

    def __init__(self, pictures: Tensor, variance: float):
        self.pictures, self.variance = pictures, variance

    def _log_joint(self, x: Tensor) -> Tensor:
        """``log p(x, picture_j)``, ``(n, m)``, for ``x`` ``(n, 1, 16, 16)``."""
        distances = (x[:, None] - self.pictures).square().flatten(2).sum(2)
        m, d = len(self.pictures), self.pictures[0].numel()
        return -distances / (2 * self.variance) - d / 2 * math.log(2 * math.pi * self.variance) - math.log(m)

    def score(self, x: Tensor) -> Tensor:
        """``grad log p(x)``, of the shape of ``x`` ``(n, 1, 16, 16)``: which way pictures become more likely.

        If your model is a denoiser ``D(x)``, the expected clean picture, then this is ``(D(x) - x) / sigma^2``. Treat
        every picture of the batch alone, so that a result depends on its own seed and not on its neighbours.
        """
        weights = self._log_joint(x).softmax(1)
        expected = (weights[:, :, None, None, None] * self.pictures).sum(1)
        return (expected - x) / self.variance

    def log_prob(self, x: Tensor) -> Tensor:
        """``log p(x)`` in nats, ``(n,)``. Optional: leave it out if yours cannot be computed."""
        return self._log_joint(x).logsumexp(1)


def load(spec: PriorSpec, weights: Path | None, device: torch.device) -> Stripes:
    """Called with the spec from ``__init__.py``, the verified file of weights if it names one, and the device.

    Raise ``basis_cli.api.WeightsError(message, hint)`` if a file does not fit; users then see one clear line.
    """
    return Stripes(device)
