"""Whether an answer is one that the prior expects at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..api import Prior
from ..samplers import joint_denoiser
from ..samplers.noise import PerImageNoise

SIGMAS = (0.1, 0.2, 0.4)
"""Noise levels at which answers are denoised."""
IMPROBABLE = 0.25
"""Mean over the components above which an answer is doubted. Of right separations of digits nine in ten are below 0.15,
of three digits taken for two nine in ten above 0.25 (24 of each)."""
STEP, FLAT = 0.01, 1e-3
"""Of finite differences; the share of the noise that is left even in flat pictures, so that nothing is divided by 0."""


@torch.no_grad()
def surprise(priors: Sequence[Prior], x: Tensor) -> Tensor | None:
    """How much worse each component ``(k, n, c, h, w)`` is denoised than its prior expects, ``(k, n)``; 0: no worse.

    Where a denoiser is optimal, it tells its own error (Tweedie's second order; the mean over ``x0``, ``z``)::

        E ||D(x0 + s z) - x0||^2 = s^2 E tr dD/dx

    For a picture that the prior does not know, the left side is larger. The mean of the logarithm of their ratio over
    :data:`SIGMAS`, the trace by one random direction (Hutchinson 1990). ``None`` where no level is near.
    """
    sigmas = [sigma for sigma in SIGMAS if all(_near(prior, sigma) for prior in priors)]
    if not sigmas:
        return None
    shape = (1, 1, *x.shape[2:])
    z = PerImageNoise([0], x.device).normal(shape)
    direction = PerImageNoise([1], x.device).normal(shape).sign()
    total = x.new_zeros(x.shape[:2])
    for sigma in sigmas:
        levels = [_near(prior, sigma) for prior in priors]
        scale = x.new_tensor(levels).view(-1, 1, 1, 1, 1)
        denoise, noisy = joint_denoiser(priors, levels), x + scale * z
        denoised = denoise(noisy)
        moved = denoise(noisy + STEP * direction)
        flat = FLAT * x[0, 0].numel()
        error = ((denoised - x) / scale).square().flatten(2).sum(2) + flat
        expected = ((moved - denoised) * direction / STEP).flatten(2).sum(2).clamp_min(0) + flat
        total += (error / expected).log()
    return total / len(sigmas)


def _near(prior: Prior, sigma: float) -> float:
    """The level of ``prior`` that is nearest to ``sigma``; 0 if none is within a factor of 1.5."""
    if prior.sigmas is None:
        return sigma
    nearest = min(prior.sigmas, key=lambda own: abs(own - sigma))
    return nearest if 1 / 1.5 < nearest / sigma < 1.5 else 0.0
