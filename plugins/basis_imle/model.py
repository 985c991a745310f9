"""IMLE networks as direct models: an answer in one pass, of pictures of any size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from basis_cli.api import PosteriorSpec, UsageError, WeightsError

from .files import plain, read
from .layouts import CLASSES
from .network import Generator
from .training import answers


class Imle:
    """Answers ``(n, 3, h, w)`` to ``y``: gray pictures, decoded JPEG files, small pictures, or layouts in colours.

    Each module sees noise of its own, so the same seed gives the same answer, and other seeds others.
    """

    dtype = "float32"

    def __init__(self, network: Generator, size: tuple[int, int] = (64, 64)):
        self.network, self.shape = network.eval().requires_grad_(False), (3, *size)
        self.factor = network.factor

    def sized(self, size: tuple[int, int]) -> Imle:
        """The same for pictures of ``(h, w)``."""
        return Imle(self.network, size)

    def sample(self, y: Tensor, seeds: Sequence[int]) -> Tensor:
        """An answer in [0, 1] for each ``y``. One after the other: rounding goes with how many there are.

        Raises:
            UsageError: ``y`` is to be enlarged by another factor.
        """
        if self.network.task == "upscale" and y.shape[2] != -(-self.shape[1] // self.factor):
            raise UsageError(f"the model enlarges {self.factor} times", f"--factor {self.factor}, or no --model")
        y = self._classes(y) if self.network.task == "paint" else y
        return torch.cat([self._answer(one, seed) for one, seed in zip(y.split(1), seeds, strict=True)]).clamp(0, 1)

    def _classes(self, y: Tensor) -> Tensor:
        """The classes ``(n, h, w)`` of layouts ``(n, 3, h, w)``, by the nearest colour."""
        colours = y.new_tensor(list(CLASSES.values())).view(len(CLASSES), 3, 1, 1) / 255
        return (y[:, None] - colours).abs().sum(2).argmin(1)

    def _answer(self, y: Tensor, seed: int) -> Tensor:
        """Of sides that the modules cannot halve, ``y`` is continued by its last pixels, and the answer cut."""
        h, w = self.shape[1:]
        upscaling = self.network.task == "upscale"
        stride = max(self.network.stride, self.factor) if upscaling else self.network.stride
        height, width = (-(-side // stride) * stride for side in (h, w))
        if (height, width) != (h, w):
            scale = self.factor if upscaling else 1
            more = (0, (width - w) // scale, 0, (height - h) // scale)
            flat = y[:, None].float() if y.ndim == 3 else y
            flat = F.pad(flat, more, mode="replicate")
            y = flat[:, 0].long() if y.ndim == 3 else flat
        return answers(self.network, y, [seed], (height, width))[..., :h, :w]


def load(spec: PosteriorSpec, weights: Path | None, device: torch.device) -> Imle:
    """The model that ``spec`` names, on ``device``.

    Raises:
        WeightsError: the file cannot be read, or was made for another task.
    """
    assert weights  # the spec names a file
    network = read(weights)
    if network.task != spec.task:
        raise WeightsError(f"{weights} is for `basis {network.task}`, not {spec.name}")
    return Imle(plain(network).to(device))
