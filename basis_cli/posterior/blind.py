"""Mixtures whose coefficients are not known."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..api import Prior
from ..errors import UsageError
from ..operators import Updating, estimated, fitted
from ..samplers import Progress, Watch, unwatched
from .guided import Guided
from .resume import SavedState
from .settings import Sampling

Alpha = tuple[float, ...]
FITTED, REFINED = 0.5, 0.2
"""Noise levels below which coefficients are fitted: at first, where estimates are no longer each other's; once they are
estimated."""
FITTING = ("ep", "project")
"""Samplers that fit coefficients."""
GRID = 0.05
"""Pictures whose coefficients are the same to within half of this share a ladder of noise levels."""


class Blind(Guided):
    """The posterior of components and coefficients.

    A chain from each of some ``starts`` fits coefficients on its way; those of the likeliest are kept. A last chain has
    the noise levels of these, and holds them until it is nearly done: its components are the sample.

    Args:
        starts: the coefficients that chains begin with, equal ones first.
        made: the operator with unknown coefficients, which begins with these, fitted below a noise level.

    Raises:
        UsageError: as :class:`Guided`, or a sampler that fits no coefficients.
    """

    def __init__(
        self,
        priors: Sequence[Prior],
        starts: Sequence[Alpha],
        made: Callable[[Alpha, float], Updating],
        sampling: Sampling,
    ):
        super().__init__(priors, made(starts[0], FITTED), sampling)
        self.starts, self.made = starts, made
        self._moved: dict[int, float] = {}
        if sampling.sampler not in FITTING:
            raise UsageError(f"the sampler {sampling.sampler!r} fits no coefficients", "--sampler ep, or give --alpha")

    @property
    def chains(self) -> int:
        return len(self.starts) + 1

    @property
    def kinds(self) -> list[Hashable]:
        """Whichever component is the stronger one, those of one prior may change places."""
        return [id(prior) for prior in self.priors]

    def spread(self, seeds: Sequence[int]) -> Tensor:
        """How far the last chain moved the coefficients at most, of the samples with these seeds ``(n,)``."""
        return torch.tensor([self._moved[seed] for seed in seeds])

    def sample(
        self, y: Tensor, seeds: Sequence[int], *, watch: Watch = unwatched, saved: SavedState | None = None
    ) -> Tensor:
        """As :meth:`Guided.sample`; from where a chain began is settled for each picture by itself."""
        if saved:
            raise UsageError("unknown coefficients cannot be resumed", "leave out --resume, or give --alpha")
        self._counter = torch.zeros((), dtype=torch.int64, device=y.device)
        samples, likelihoods = [], []
        for i, start in enumerate(self.starts):
            samples.append(self._chain(self.made(start, FITTED), y, seeds, self._told(watch, i)))
            likelihoods.append(super().log_likelihood(samples[-1], y))
        best = torch.stack(likelihoods).argmax(0)
        x = torch.stack(samples)[best, :, torch.arange(len(y), device=y.device)].transpose(0, 1).contiguous()
        before = self._estimated(x, y)
        near = [_near(each) for each in before.T.tolist()]
        for start in sorted(set(near)):
            own = [i for i, each in enumerate(near) if each == start]
            told = self._told(watch, len(self.starts), x, own)
            x[:, own] = self._chain(self.made(start, REFINED), y[own], [seeds[i] for i in own], told)
        moved = (self._estimated(x, y) - before).abs().amax(0)
        self._moved |= dict(zip(seeds, moved.tolist(), strict=True))
        return x

    def _estimated(self, x: Tensor, y: Tensor) -> Tensor:
        """The coefficients ``(k, n)`` with which ``x`` explains ``y`` best."""
        alpha = estimated(fitted(self.operator, x, y))
        assert alpha is not None
        return alpha

    def _chain(self, operator: Updating, y: Tensor, seeds: Sequence[int], watch: Watch) -> Tensor:
        guided = Guided(self.priors, operator, self.sampling)
        x = guided.sample(y, seeds, watch=watch)
        self._counter += guided._counter
        return x

    def _told(self, watch: Watch, chain: int, x: Tensor | None = None, own: Sequence[int] = ()) -> Watch:
        """``watch`` of one chain of several, or of the pictures ``own`` of it, the others being ``x``."""

        def told(progress: Progress) -> None:
            step, shown = progress.step + chain * progress.total, progress.x
            if x is not None:
                shown = x.clone()
                shown[:, own] = progress.x
            watch(replace(progress, step=step, total=self.chains * progress.total, x=shown))

        return told


def _near(alpha: Sequence[float]) -> Alpha:
    """Of sum 1, and all but for that multiples of :data:`GRID`."""
    steps = [max(1, round(a / sum(alpha) / GRID)) for a in alpha]
    return tuple(step / sum(steps) for step in steps)
