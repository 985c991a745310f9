"""What codes mean: on the way between two, one with every label, principal components, levels mixed.

A code is a row of ``(n, d)``, the white noise that :meth:`~.network.ConditionalFlow.encode` makes of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .model import Digits
from .network import ConditionalFlow


def between(first: Tensor, last: Tensor, steps: int) -> Tensor:
    """``steps`` codes ``(steps, d)`` on the straight way from one ``(d,)`` to another."""
    share = torch.linspace(0, 1, steps)[:, None]
    return (1 - share) * first + share * last


def plane(first: Tensor, second: Tensor, steps: int = 5, reach: float = 0.9) -> Tensor:
    """``a1 z1 + a2 z2`` ``(steps, steps, d)``, ``a1`` (rows) and ``a2`` (columns) in [-reach, reach]."""
    a = torch.linspace(-reach, reach, steps)
    return a[:, None, None] * first + a[:, None] * second


def with_every_label(model: Digits, z: Tensor) -> Tensor:
    """The pictures of codes ``(n, d)`` as each class, ``(classes, n, c, h, w)``: the same style."""
    labels = torch.arange(model.classes).repeat_interleave(len(z))
    return model.decode(z.repeat(model.classes, 1), labels).unflatten(0, (model.classes, len(z)))


@dataclass(frozen=True)
class Components:
    """Principal components of codes, by falling variance."""

    mean: Tensor
    """``(d,)``."""
    directions: Tensor
    """``(d, k)``, orthonormal."""
    deviations: Tensor
    """Standard deviation along each, ``(k,)``."""

    @classmethod
    def of(cls, z: Tensor, count: int) -> Components:
        """The first ``count`` of codes ``(n, d)``."""
        variances, directions = torch.linalg.eigh(z.T.double().cov())
        chosen = slice(-count, None)
        deviations = variances[chosen].flip(0).clamp_min(0).sqrt()
        return cls(z.mean(0), directions[:, chosen].flip(1).float(), deviations.float())

    def of_codes(self, z: Tensor) -> Tensor:
        """Codes ``(n, d)`` along each component, in standard deviations ``(n, k)``."""
        return (z - self.mean) @ self.directions / self.deviations

    def along(self, weights: Mapping[int, float], u: Tensor) -> Tensor:
        """Codes ``(len(u), d)`` that lie ``u`` times ``weights``, by component, deviations from the mean."""
        way = torch.zeros_like(self.deviations)
        for component, weight in weights.items():
            way[component] = weight
        return self.mean + u[:, None] * (self.directions @ (way * self.deviations))


def levels(network: ConditionalFlow) -> list[int]:
    """How many numbers of a code leave at each resolution, fine to coarse."""
    sizes = [left * torch.Size(kept[1:]).numel() for kept, left in zip(network.kept, network.left, strict=True)]
    return [size for size in [*sizes, network.size - sum(sizes)] if size]


def renewed(network: ConditionalFlow, z: Tensor, shares: Sequence[float], noise: Tensor) -> Tensor:
    """Codes ``(n, d)``; of each resolution, fine to coarse, a share ``s`` is new: ``sqrt(1 - s) z + sqrt(s) noise``."""
    parts = zip(z.split(levels(network), dim=1), noise.split(levels(network), dim=1), shares, strict=True)
    return torch.cat([(1 - s) ** 0.5 * old + s**0.5 * new for old, new, s in parts], dim=1)
