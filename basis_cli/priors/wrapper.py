"""A prior around another one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..api import Level, Likelihood, Multiscale, Prior
from ..compute import compile_networks
from . import contract


def halvings(priors: Sequence[Prior]) -> int:
    """How many scales the pyramids among ``priors`` have below their pictures' own; 0 if there are none."""
    return max(prior.halvings if isinstance(prior, Multiscale) else 0 for prior in priors)


class Wrapper:
    """A prior that is ``prior`` but for what a subclass changes: :meth:`scored`, which every score goes through."""

    def __init__(self, prior: Prior):
        self.prior, self.shape, self.sigmas = prior, prior.shape, prior.sigmas
        self.halvings = halvings([prior])

    def compile(self) -> None:
        compile_networks([self.prior])

    def at(self, sigma: float) -> Level:
        level = contract.level(self.prior, sigma)
        kind = _WrappedLikelihood if isinstance(level, Likelihood) else WrappedLevel
        return kind(self, level, sigma)

    def scored(self, level: Level, x: Tensor, sigma: float) -> Tensor:
        """The score of ``x`` ``(n, c, h, w)`` at ``level``, which is that of ``sigma``."""
        return contract.score(level, x)

    def log_prob(self, level: Likelihood, x: Tensor, sigma: float) -> Tensor:
        """The log-likelihood of ``x`` at ``level``, ``(n,)`` in nats."""
        return contract.log_prob(level, x)


class WrappedLevel:
    """A level whose scores go through :meth:`Wrapper.scored`."""

    def __init__(self, wrapper: Wrapper, level: Level, sigma: float):
        self.wrapper, self.level, self.sigma = wrapper, level, sigma

    def score(self, x: Tensor) -> Tensor:
        return self.wrapper.scored(self.level, x, self.sigma)


class _WrappedLikelihood(WrappedLevel):
    level: Likelihood  # type: ignore[assignment]

    def log_prob(self, x: Tensor) -> Tensor:
        return self.wrapper.log_prob(self.level, x, self.sigma)


class GrayPrior(Wrapper):
    """The gray pictures among those of ``prior``, all channels equal: ``D(x)`` is the mean of its channels.

    The noise of the channels stays independent, as the network of ``prior`` expects it.
    """

    def scored(self, level: Level, x: Tensor, sigma: float) -> Tensor:
        gray = (x + sigma**2 * contract.score(level, x)).mean(1, keepdim=True)
        return (gray - x) / sigma**2


class NegativePrior(Wrapper):
    """``p(1 - x)``: pictures whose negatives ``prior`` knows, as dark ink on white paper."""

    def scored(self, level: Level, x: Tensor, sigma: float) -> Tensor:
        return -contract.score(level, 1 - x)

    def log_prob(self, level: Likelihood, x: Tensor, sigma: float) -> Tensor:
        return contract.log_prob(level, 1 - x)


class AlikePrior(Wrapper):
    """``p(x | g)`` of pictures that a ``guide`` ``g`` ``(c, h, w)`` is like: it is ``x`` with noise of ``std``.

    With it and with noise of ``sigma`` a picture is observed twice, which is as much as once at the level ``s``::

        1 / s^2 = 1 / sigma^2 + 1 / std^2,   x~ = s^2 (x / sigma^2 + g / std^2)
        score(x) = (s / sigma)^2 score_s(x~) + (g - x) / (sigma^2 + std^2)
    """

    def __init__(self, prior: Prior, guide: Tensor, std: float):
        super().__init__(prior)
        self.guide, self.std = guide, std

    def at(self, sigma: float) -> Level:
        level = contract.level(self.prior, (sigma**-2 + self.std**-2) ** -0.5)
        kind = _WrappedLikelihood if isinstance(level, Likelihood) else WrappedLevel
        return kind(self, level, sigma)

    def _both(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor, float]:
        """``x~``, ``g - x`` and ``(s / sigma)^2``."""
        off = self.guide.to(x) - x
        share = self.std**2 / (self.std**2 + sigma**2)
        return x + (1 - share) * off, off, share

    def scored(self, level: Level, x: Tensor, sigma: float) -> Tensor:
        both, off, share = self._both(x, sigma)
        return share * contract.score(level, both) + off / (sigma**2 + self.std**2)

    def log_prob(self, level: Likelihood, x: Tensor, sigma: float) -> Tensor:
        both, off, _ = self._both(x, sigma)
        return contract.log_prob(level, both) - off.square().flatten(1).sum(1) / (2 * (sigma**2 + self.std**2))


def wrapped(priors: Sequence[Prior], kind: type[Wrapper]) -> list[Prior]:
    """Each of the ``priors`` in a wrapper of this ``kind``, each once."""
    made = {id(prior): kind(prior) for prior in priors}
    return [made[id(prior)] for prior in priors]
