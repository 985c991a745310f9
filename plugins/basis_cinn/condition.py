"""The conditioning network: what a gray picture says of its colours, at every resolution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class _Block(nn.Module):
    """Two convolutions with group normalization, added to what goes in."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, channels), nn.GroupNorm(1, channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.leaky_relu(self.norm1(x), 0.01))
        return x + self.conv2(F.leaky_relu(self.norm2(h), 0.01))


class ConditionNetwork(nn.Module):
    """Features of standardised gray pictures ``(n, 1, side, side)``: a map for each resolution, then a vector.

    A U-Net, so that what each pixel belongs to is known at every resolution. Normalization is by picture, not by batch:
    a picture's features do not depend on what is beside it.
    """

    def __init__(self, widths: Sequence[int], side: int, vector: int):
        super().__init__()
        pairs = list(pairwise(widths))
        self.begin = nn.Conv2d(1, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.along = nn.ModuleList(map(_Block, widths[1:]))
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.back = nn.ModuleList(map(_Block, widths[:-1]))
        smallest = side >> len(pairs)
        self.whole = nn.Linear(widths[-1] * smallest**2, vector)

    def forward(self, y: Tensor) -> list[Tensor]:
        h = self.begin(y)
        skipped = [h]
        for down, block in zip(self.down, self.along, strict=True):
            h = block(down(h))
            skipped.append(h)
        vector = self.whole(F.leaky_relu(h, 0.01).flatten(1))
        maps = []
        for skip, up, block in zip(skipped[-2::-1], reversed(self.up), reversed(self.back), strict=True):
            h = block(skip + F.interpolate(up(h), scale_factor=2.0, mode="nearest"))
            maps.append(h)
        return [*reversed(maps), F.leaky_relu(vector, 0.01)]
