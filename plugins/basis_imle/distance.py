"""Distances between pictures that training minimizes. They are no LPIPS: that has weights fitted to human judgement."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basis_cli.api import features, weights


def pyramid_distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference in the bands of a Laplacian pyramid of 2 x 2 means, summed over the bands: ``(n,)``."""
    difference, total = x - y, torch.zeros(len(x), device=x.device)
    while min(difference.shape[2:]) > 4 and not any(side % 2 for side in difference.shape[2:]):
        shrunk = F.avg_pool2d(difference, 2)
        total = total + (difference - F.interpolate(shrunk, scale_factor=2.0)).abs().mean((1, 2, 3))
        difference = shrunk
    return total + difference.abs().mean((1, 2, 3))


class FeatureDistance(nn.Module):
    """The Laplacian pyramid's distance, and from :data:`LEAST` pixels on that of the features of a classifier.

    Features are those of the first two stages of the project's CIFAR-10 classifier (``basis train features``), of
    pictures shrunk to its own size, 32 x 32, or less, and scaled to length one at every pixel; squared differences are
    summed over channels and averaged over pixels. Asked at full size, it makes of what cannot be told a hatching.
    """

    def __init__(self, weight: float = 0.1):
        super().__init__()
        network, _ = features.read(weights.find(weights.FEATURES))
        self.weight = weight
        self.begin, (self.first, self.second) = network.begin, (network.stages[:7], network.stages[7:14])
        self.requires_grad_(False)

    def layers(self, x: Tensor) -> list[Tensor]:
        """Features ``(n, c, h, w)`` of each stage, of length one at every pixel."""
        first = self.first(F.gelu(self.begin(4 * x - 2)))
        return [F.normalize(h, dim=1, eps=1e-3) for h in (first, self.second(first))]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        total = pyramid_distance(x, y)
        if min(x.shape[2:]) < LEAST:
            return total
        while min(x.shape[2:]) > LARGEST:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        pairs = zip(self.layers(x), self.layers(y), strict=True)
        for a, b in pairs:
            total = total + self.weight * (a - b).square().sum(1).mean((1, 2))
        return total


LEAST, LARGEST = 16, 32
"""Pixels of a side below which the classifier's features mean nothing, and which it was trained for."""
