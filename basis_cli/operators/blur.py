"""Pictures that were out of focus when they were laid over each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import UsageError
from .base import TINY, Linear, Noise
from .mixture import Mixture, Superposition, Unknown

SEEN = 1e-3
"""The share of a frequency's energy below which it counts as not seen: rounding would be taken for detail."""


class Blurred(Superposition, Linear):
    """``y = sum_i alpha_i B_i x_i``: each picture has a Gaussian blur ``B_i`` of its own.

    Pictures are continued beyond their edges by their reflection. A blur is then a factor for each frequency of the
    discrete cosine transform, so that all ``B_i`` commute and systems in ``A A^T`` are divisions, one a frequency.

    Args:
        mixture: how the blurred pictures are laid over each other, with coefficients that are known or fitted.
        stds: of the blurs, in pixels; 0 for a picture in focus.

    Raises:
        UsageError: not a standard deviation for each picture, or one that is negative, NaN or infinite.
    """

    gram = None

    def __init__(self, mixture: Mixture | Unknown, stds: Sequence[float]):
        if len(stds) != mixture.k:
            raise UsageError(f"{len(stds)} blurs for {mixture.k} components", "one for each, 0 for one in focus")
        if not all(math.isfinite(std) and std >= 0 for std in stds):
            raise UsageError(f"a blur is a number of pixels, 0 or more, not {list(stds)}")
        self.mixture, self.stds = mixture, tuple(map(float, stds))
        self.k, self.scale = mixture.k, mixture.scale

    @property
    def nominal(self) -> Blurred:
        return Blurred(self.mixture.nominal, self.stds)

    @property
    def alpha(self) -> tuple[float, ...]:
        """The coefficients, those that fitting begins with if they are not known."""
        return self.mixture.nominal.alpha

    @property
    def columns(self) -> tuple[tuple[float, float], ...]:
        """What tells pictures of one prior apart: their coefficients and their blurs."""
        return tuple(zip(self.alpha, self.stds, strict=True))

    def coefficients(self, x: Tensor) -> Tensor:
        return self.mixture.coefficients(x)

    def blurred(self, x: Tensor) -> Tensor:
        """``B_i x_i``, shaped like ``x`` ``(k, n, c, h, w)``."""
        return filtered(x, _responses(self.stds, x))

    def response(self, x: Tensor) -> Tensor:
        """``alpha_i B_i`` at each frequency, ``(k, n | 1, 1, 2 h, w + 1)``."""
        return self.coefficients(x) * _responses(self.stds, x)

    def __call__(self, x: Tensor) -> Tensor:
        return filtered(x, self.response(x)).sum(0)

    def adjoint(self, y: Tensor) -> Tensor:
        return filtered(y[None], self.response(y[None]))

    def pinv(self, y: Tensor) -> Tensor:
        """See :class:`basis_cli.operators.LinearOperator`; but for frequencies that are hardly seen (:data:`SEEN`)."""
        response = self.response(y[None])
        energy = response.square().sum(0)
        seen = energy > SEEN * sum(a * a for a in self.alpha)
        return filtered(y[None], torch.where(seen, response / energy.clamp_min(TINY), 0))

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        return Linear.project(self, x, y)

    def forecast(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`basis_cli.operators.Updating`; the variances are those of white noise."""
        expected = self(mean)
        spread = _mean(self.response(mean).square() * _white(variance), mean).sum(0)
        return expected, spread.expand_as(expected)

    def absorb(self, mean: Tensor, variance: Tensor, seen: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Superposition.absorb`: the mean as if ``seen`` were exact (tower rule), the variances of white
        noise."""
        return self._updated(mean, _white(variance), seen, 0.0, left)

    def update(self, mean: Tensor, variance: Tensor, y: Tensor, noise_std: Noise = 0.0) -> tuple[Tensor, Tensor]:
        """See :class:`basis_cli.operators.Updating`: exact means for white beliefs, and the mean of their variances."""
        noise = torch.as_tensor(noise_std).to(mean).square().mean()
        return self._updated(mean, _white(variance), y, noise)

    def _updated(
        self, mean: Tensor, variance: Tensor, y: Tensor, noise: Tensor | float, left: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """At each frequency ``m + v a S^-1 (y - A m)`` and ``v - v^2 a^2 S^-1``, with ``S = noise + sum_j v_j a_j^2``.

        Of ``y`` the variance ``left`` may be open.
        """
        response = self.response(mean)
        spread = (variance * response.square()).sum(0)
        gain = variance * response / (spread + noise + TINY * spread.amax((-2, -1), keepdim=True))
        after = variance - _mean(gain * response * variance, mean)
        if left is not None:
            after = after + _mean(gain.square(), mean) * left.mean((-3, -2, -1), keepdim=True)
        return mean + filtered((y - self(mean))[None], gain), after


def _white(variance: Tensor) -> Tensor:
    """One variance for each picture, ``(k, n | 1, 1, 1, 1)``."""
    return variance.mean((-3, -2, -1), keepdim=True)


def _mean(factor: Tensor, x: Tensor) -> Tensor:
    """The mean of a ``factor`` over the frequencies of the cosine transform of ``x``, which are a quarter of it."""
    h, w = x.shape[-2:]
    return factor[..., :h, :w].mean((-2, -1), keepdim=True)


def _responses(stds: Sequence[float], x: Tensor) -> Tensor:
    """What blurs leave of each frequency of pictures like ``x`` ``(..., h, w)``: ``(k, 1, 1, 2 h, w + 1)``."""
    h, w = x.shape[-2:]
    return torch.stack([_response(std, h, w, x.dtype, x.device) for std in stds])[:, None, None]


@lru_cache(maxsize=16)
def _response(std: float, h: int, w: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``exp(-std^2 |omega|^2 / 2)``, the Fourier transform of a Gaussian: ``(2 h, w + 1)``."""
    down = torch.fft.fftfreq(2 * h, 1 / (2 * math.pi), dtype=dtype, device=device)
    across = torch.fft.rfftfreq(2 * w, 1 / (2 * math.pi), dtype=dtype, device=device)
    return (-0.5 * std**2 * (down.square()[:, None] + across.square())).exp()


def filtered(x: Tensor, factor: Tensor) -> Tensor:
    """``x`` ``(..., h, w)``, continued by its reflections, with each frequency multiplied by ``factor``."""
    h, w = x.shape[-2:]
    whole = torch.cat([x, x.flip(-1)], dim=-1)
    whole = torch.cat([whole, whole.flip(-2)], dim=-2)
    return torch.fft.irfft2(torch.fft.rfft2(whole) * factor, s=(2 * h, 2 * w))[..., :h, :w]
