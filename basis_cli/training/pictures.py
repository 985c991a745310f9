"""The pictures of a training run: a batch for each step, the same whenever and wherever it is drawn."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .settings import Settings


def taken(data: Tensor, chosen: Tensor, side: int | None, generator: torch.Generator, octaves: int = 1) -> Tensor:
    """``data[chosen]`` ``(n, c, h, w)`` float32, or of each picture a square ``(n, c, side, side)`` at a place of its
    own: the first of the pictures as they are, as many shrunk to half their size, and so on for ``octaves`` scales."""
    if side is None:
        return data[chosen].float()
    fitting = [side << octave for octave in range(octaves) if side << octave <= min(data.shape[2:])]
    squares = []
    for window, some in zip(fitting, chosen.tensor_split(len(fitting)), strict=True):
        n, (h, w) = len(some), data.shape[2:]
        along = torch.arange(window, device=data.device)
        tops, lefts = (torch.randint(s - window + 1, (n, 1), generator=generator, device=data.device) for s in (h, w))
        rows, columns = (tops + along)[:, :, None], (lefts + along)[:, None]
        cut = data[some[:, None, None], :, rows, columns].permute(0, 3, 1, 2).float()
        squares.append(F.avg_pool2d(cut, window // side))
    return torch.cat(squares)


@dataclass(frozen=True)
class Rounds:
    """Learn from a few pictures at a time, for so many steps, and begin with something that is done for all of them."""

    pictures: int
    steps: int
    begin: Callable[[nn.Module, Tensor, int], None]
    """Called with the network, the pictures ``(pictures, c, h, w)`` and the number of the round. What it leaves in
    buffers of the network is saved with that."""


class Pictures:
    """All pictures on a device, and a batch of them for each step: the same whenever and wherever it is drawn."""

    def __init__(
        self, images: np.ndarray, labels: np.ndarray | None, settings: Settings, device: torch.device, process: int
    ):
        self.settings, self.process = settings, process
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable")  # nothing writes to it
            self.images = torch.from_numpy(images).to(device)
        self.labels = None if labels is None else torch.tensor(labels, dtype=torch.int64, device=device)
        self.generator = torch.Generator(device)
        self.pool: Tensor | None = None

    def batch(self, step: int) -> tuple[Any, ...]:
        """What the loss of ``step`` is given behind the network: pictures, a generator and labels, if there are any."""
        settings, generator, device = self.settings, self.generator, self.images.device
        entropy = np.random.SeedSequence((settings.seed, step, self.process))
        generator.manual_seed(int(entropy.generate_state(1, np.uint64)[0]) >> 1)
        side = settings.crops[step % len(settings.crops)] if settings.crops else None
        count = settings.pictures(side)
        if self.pool is not None:
            chosen = torch.randint(len(self.pool), (count,), generator=generator, device=device)
            return self.pool[chosen], generator, chosen
        chosen = torch.randint(len(self.images), (count,), generator=generator, device=device)
        x = self._seen(chosen, side, generator)
        return (x, generator) if self.labels is None else (x, generator, self.labels[chosen])

    def begin(self, rounds: Rounds, step: int) -> None:
        """From here on, batches are of the round that ``step`` is in, with their places in it for labels."""
        settings, generator, device = self.settings, self.generator, self.images.device
        entropy = np.random.SeedSequence((settings.seed, step // rounds.steps, self.process, 1))
        generator.manual_seed(int(entropy.generate_state(1, np.uint64)[0]) >> 1)
        chosen = torch.randperm(len(self.images), generator=generator, device=device)[: rounds.pictures]
        self.pool = self._seen(chosen, settings.side, generator)

    def _seen(self, chosen: Tensor, side: int | None, generator: torch.Generator) -> Tensor:
        """These pictures, cut and mirrored at random, in [0, 1]."""
        x = taken(self.images, chosen, side, generator, self.settings.octaves).div_(255)
        if self.settings.flip:
            mirrored = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < 0.5
            x = torch.where(mirrored, x.flip(-1), x)
        return x.contiguous(memory_format=torch.channels_last)
