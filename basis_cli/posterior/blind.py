"""Mixtures whose coefficients are not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..api import Prior
from ..errors import UsageError
from ..operators import Updating
from ..samplers import Progress, Watch, unwatched
from .guided import Guided
from .resume import SavedState
from .settings import Sampling


class Blind(Guided):
    """The posterior of components and coefficients: a sample from each of some ``starts``, the likeliest is kept.

    Args:
        starts: an operator with unknown coefficients for each of some values that they begin with, equal ones first.

    Raises:
        UsageError: as :class:`Guided`, or a sampler that fits no coefficients.
    """

    def __init__(self, priors: Sequence[Prior], starts: Sequence[Updating], sampling: Sampling):
        super().__init__(priors, starts[0], sampling)
        self.starts = starts
        if sampling.sampler != "ep":
            raise UsageError(f"the sampler {sampling.sampler!r} fits no coefficients", "--sampler ep, or give --alpha")

    def sample(
        self, y: Tensor, seeds: Sequence[int], *, watch: Watch = unwatched, saved: SavedState | None = None
    ) -> Tensor:
        """As :meth:`Guided.sample`; from where a chain began is settled for each picture by itself."""
        if saved:
            raise UsageError("unknown coefficients cannot be resumed", "leave out --resume, or give --alpha")
        count, evaluated, found, likelihoods = len(self.starts), 0, [], []
        for i, start in enumerate(self.starts):

            def told(progress: Progress, before: int = i) -> None:
                step = progress.step + before * progress.total
                watch(replace(progress, step=step, total=count * progress.total))

            guided = Guided(self.priors, start, self.sampling)
            found.append(guided.sample(y, seeds, watch=told))
            likelihoods.append(guided.log_likelihood(found[-1], y))
            evaluated += int(guided._counter)
        self._counter = torch.tensor(evaluated, device=y.device)
        best = torch.stack(likelihoods).argmax(0)
        return torch.stack(found)[best, :, torch.arange(len(y), device=y.device)].transpose(0, 1)
