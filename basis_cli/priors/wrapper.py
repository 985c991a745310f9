"""A prior around another one."""

from __future__ import annotations

from torch import Tensor

from ..api import Level, Likelihood, Prior
from ..compute import compile_networks
from ..samplers.base import halvings


class Wrapper:
    """A prior that is ``prior`` but for what a subclass changes: :meth:`scored`, which every score goes through."""

    def __init__(self, prior: Prior):
        self.prior, self.shape, self.sigmas = prior, prior.shape, prior.sigmas
        self.halvings = halvings([prior])

    def compile(self) -> None:
        compile_networks([self.prior])

    def at(self, sigma: float) -> Level:
        level = self.prior.at(sigma)
        return _WrappedLikelihood(self, level) if isinstance(level, Likelihood) else _WrappedLevel(self, level)

    def scored(self, level: Level, x: Tensor) -> Tensor:
        """The score of ``x`` ``(n, c, h, w)`` at ``level``."""
        return level.score(x)


class _WrappedLevel:
    def __init__(self, wrapper: Wrapper, level: Level):
        self.wrapper, self.level = wrapper, level

    def score(self, x: Tensor) -> Tensor:
        return self.wrapper.scored(self.level, x)


class _WrappedLikelihood(_WrappedLevel):
    level: Likelihood  # type: ignore[assignment]

    def log_prob(self, x: Tensor) -> Tensor:
        return self.level.log_prob(x)
