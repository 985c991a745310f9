"""The states that a sampler goes through."""

from __future__ import annotations

import torch
from torch import Tensor

from ..samplers import Progress, Watch, unwatched
from . import ordering


class Frames:
    """Keeps the state at the end of each noise level (Figure 9), and lets ``then`` watch as well.

    A sampler that denoises is kept as its estimates of the clean pictures, Langevin dynamics as the noisy pictures.
    """

    def __init__(self, then: Watch = unwatched):
        self._then = then
        self._states: dict[tuple[int, int], dict[int, Tensor]] = {}

    def __call__(self, progress: Progress) -> None:
        if (progress.step + 1) % max(1, progress.total // progress.levels) == 0:
            for whose, picture in zip(progress.chosen, progress.x.detach().cpu().clone().unbind(1), strict=True):
                self._states.setdefault(whose, {})[progress.level] = picture
        self._then(progress)

    def forget(self, index: int) -> None:
        """Let go of the states of input ``index``."""
        for whose in [whose for whose in self._states if whose[0] == index]:
            del self._states[whose]

    def of(self, index: int, sample: int = 0, like: Tensor | None = None) -> Tensor:
        """The states ``(levels, k, c, h, w)`` of a sample, in the order drawn, of input ``index``.

        With ``like`` ``(k, c, h, w)`` the components are in the order that brings the last state nearest to it.
        """
        kept = self._states[index, sample]
        states = torch.stack([kept[level] for level in sorted(kept)]).float()
        if like is None:
            return states
        closeness = -(like[:, None] - states[-1][None]).square().flatten(2).sum(2)
        return states[:, ordering.assignment(closeness, [0] * len(like))]
