"""How values are kept in a file, and what is made of what was kept: an interval for every value that was."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .base import Noise, Record, Updating, truncated
from .blur import Blurred
from .mixture import Superposition, Unknown, UnknownMixtures


class Digitized:
    """Values kept in steps, and cut at white or black: ``(1, n, c, h, w) -> (n, c, h, w)``.

    What was cut is known to be at least white, or at most black. The derivative takes rounding for the identity.

    Args:
        step: between neighbouring values, 1/255 for 8 bits; 0: not rounded.
        white: values above 1 were cut.
        black: values below 0 were cut.
    """

    k, scale = 1, 1.0

    def __init__(self, step: float = 1 / 255, white: bool = False, black: bool = False):
        self.step, self.white, self.black = step, white, black

    def __call__(self, x: Tensor) -> Tensor:
        z = x[0].clamp(0 if self.black else -math.inf, 1 if self.white else math.inf)
        return z + ((z / self.step).round() * self.step - z).detach() if self.step else z

    def bounds(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Between what the value was."""
        half = self.step / 2
        low, high = y - half, y + half
        high = high.masked_fill(high >= 1, math.inf) if self.white else high
        low = low.masked_fill(low <= 0, -math.inf) if self.black else low
        return low, high

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """See :class:`basis_cli.operators.Constraint`."""
        return x.clamp(*self.bounds(y))

    def update(self, mean: Tensor, variance: Tensor, y: Tensor, noise_std: Noise = 0.0) -> tuple[Tensor, Tensor]:
        """See :class:`basis_cli.operators.base.Record`."""
        noisy = variance + noise_std**2
        seen, left = truncated(mean, noisy, *self.bounds(y))
        gain = variance / noisy
        return mean + gain * (seen - mean), variance + gain.square() * (left - noisy)


class Saturated(Digitized):
    """Values above 1 were cut: ``y = min(x, 1)``."""

    def __init__(self, step: float = 1 / 255):
        super().__init__(step, white=True)


class Quantized(Digitized):
    """Values were rounded to ``bits`` bits."""

    def __init__(self, bits: int = 8):
        super().__init__(1 / (2**bits - 1))


class Composed:
    """``y = outer(inner(x))``, for example a mixture in a file."""

    def __init__(self, outer: Record, inner: Updating):
        self.outer, self.inner = outer, inner
        self.k, self.scale, self.nominal = inner.k, inner.scale, inner.nominal

    def __str__(self) -> str:
        return f"{type(self.outer).__name__} of {self.inner}"

    def __call__(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x)[None])

    def nearest(self, z: Tensor, y: Tensor) -> Tensor:
        """The nearest to ``z`` ``(n, c, h, w)`` of what ``outer`` makes ``y`` of."""
        return self.outer.project(z[None], y)[0]

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """See :class:`basis_cli.operators.Constraint`."""
        return self.inner.project(x, self.nearest(self.inner(x), y))

    def forecast(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`basis_cli.operators.Updating`."""
        expected, spread = self.inner.forecast(mean, variance)
        return self.outer(expected[None]), spread

    def update(self, mean: Tensor, variance: Tensor, y: Tensor, noise_std: Noise = 0.0) -> tuple[Tensor, Tensor]:
        """See :class:`basis_cli.operators.Updating`: first what ``inner`` gave, then what that was made of."""
        expected, spread = self.inner.forecast(mean, variance)
        (seen,), (left,) = self.outer.update(expected[None], spread[None], y, noise_std)
        if isinstance(self.inner, Superposition):
            return self.inner.absorb(mean, variance, seen, left)
        return self.inner.update(mean, variance, seen, left.sqrt())


def fitted(operator: Any, x: Tensor, y: Tensor, share: float = 1.0, sigma: float = 0.0) -> Any:
    """``operator`` with its coefficients fitted (:meth:`Unknown.fitted`) to estimates ``x`` at noise level ``sigma``;
    itself if they are known, or not fitted at so much noise."""
    if isinstance(operator, Composed):
        seen = operator.nearest(operator.inner(x), y)
        return Composed(operator.outer, fitted(operator.inner, x, seen, share, sigma))
    if isinstance(operator, Blurred):
        return Blurred(fitted(operator.mixture, operator.blurred(x), y, share, sigma), operator.stds)
    unknown = isinstance(operator, (Unknown, UnknownMixtures))
    return operator.fitted(x, y, share) if unknown and sigma < operator.below else operator


def begun(operator: Any, y: Tensor) -> Any:
    """``operator`` with what ``y`` itself tells of its coefficients (:meth:`UnknownMixtures.begun`)."""
    return operator.begun(y) if isinstance(operator, UnknownMixtures) else operator


def estimated(operator: Any) -> Tensor | None:
    """The coefficients ``(k, n)`` that were fitted to each picture, of several observations ``(k, n, m)``; ``None`` if
    they were known."""
    if isinstance(operator, Composed):
        return estimated(operator.inner)
    if isinstance(operator, Blurred):
        return estimated(operator.mixture)
    if isinstance(operator, UnknownMixtures):
        return None if operator.rows is None else operator.rows.permute(2, 0, 1)
    return operator.each.flatten(1) if isinstance(operator, Unknown) and operator.each is not None else None
