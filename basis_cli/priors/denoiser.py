"""Denoisers of other libraries as priors."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from ..errors import InputError

Denoise = Callable[[Tensor, float], Tensor]


class DenoiserPrior:
    """A prior from a denoiser: ``score(x) = (D(x, sigma) - x) / sigma^2`` (Tweedie), whoever trained it.

    Args:
        denoise: ``D(x, sigma)``, the expected clean pictures for ``x = x0 + sigma z``, ``(n, c, h, w)`` float32 to the
            same, on the device of ``x``; ``x0`` is in ``value_range`` and ``sigma`` in its units: over [-1, 1] it is
            twice that of the sampler.
        shape: ``(c, h, w)`` of its pictures.
        value_range: what it calls black and white.
        sigmas: the noise levels that it was trained at, high to low, for pictures in [0, 1]; ``None``: any level.
            Above the highest and below the lowest it refuses.
    """

    def __init__(
        self,
        denoise: Denoise,
        shape: tuple[int, int, int],
        value_range: tuple[float, float] = (0.0, 1.0),
        sigmas: tuple[float, ...] | None = None,
    ):
        self.denoise, self.shape, self.value_range, self.sigmas = denoise, shape, value_range, sigmas
        self.span = (sigmas[-1], sigmas[0]) if sigmas else (0.0, math.inf)

    def at(self, sigma: float) -> DenoiserLevel:
        """The denoiser at ``sigma``.

        Raises:
            InputError: it was not trained with that much, or that little, noise.
        """
        low, high = self.span
        if not 0.999 * low <= sigma <= 1.001 * high:
            reason = f"this prior knows noise levels from {low:.3g} to {high:.3g}, not {sigma:.3g}"
            raise InputError(reason, "--sigma-max, --sigma-min")
        return DenoiserLevel(self, sigma)


class DenoiserLevel:
    """A :class:`DenoiserPrior` at one noise level."""

    def __init__(self, prior: DenoiserPrior, sigma: float):
        self.prior, self.sigma = prior, sigma

    def score(self, x: Tensor) -> Tensor:
        n, (black, white) = len(x), self.prior.value_range
        scale = white - black
        # On CPUs a convolution of a single picture rounds differently: it goes as two.
        noisy = black + scale * (x.expand(2, -1, -1, -1) if n == 1 else x)
        clean = self.prior.denoise(noisy, scale * self.sigma)[:n]
        return ((clean.float() - black) / scale - x) / self.sigma**2
