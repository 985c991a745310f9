"""Noise only in what is not known: how a score network learns pictures of which a part is given.

White noise hides what was observed together with what was not: under it the colours of a gray picture are decided
before it can be seen what the picture shows. Here the known part ``K x`` stays as it is, and noise lies in the rest,
``P = I - K``: at the highest level nothing is left of that but what follows from the known part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from basis_cli.api import operators

Projection = Callable[[Tensor], Tensor]
"""``P``, of pictures ``(n, c, h, w)``."""
GRAYS = (operators.LUMA, (1 / 3, 1 / 3, 1 / 3))
"""Weights of the channels in gray pictures: luma, and the mean."""
FACTORS = (2, 4, 8)
"""By which pictures are shrunk."""


def of_gray(weights: Tensor) -> Projection:
    """Onto colours: gray pictures ``w x`` are known; ``weights`` ``(n, c, 1, 1)`` or ``(c, 1, 1)``."""
    unit = weights / weights.square().sum(-3, keepdim=True)
    return lambda x: x - unit * (weights * x).sum(1, keepdim=True)


def of_mask(known: Tensor) -> Projection:
    """Onto pixels that are not ``known`` ``(n, 1, h, w)``, 1 where they are."""
    return lambda x: (1 - known) * x


def random_gray(x: Tensor, generator: torch.Generator) -> Projection:
    """For each of ``x`` ``(n, c, h, w)`` one of :data:`GRAYS`, most often luma."""
    chosen = (torch.rand(len(x), generator=generator, device=x.device) > 0.75).long()
    return of_gray(torch.tensor(GRAYS, device=x.device)[chosen][..., None, None])


def random_mask(x: Tensor, generator: torch.Generator) -> Projection:
    """For each of ``x`` ``(n, c, h, w)`` a hole, a rectangle that may reach the edge, or scattered pixels."""
    n, _, h, w = x.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator, device=x.device)

    inside = []
    for side in (h, w):
        size, place = 0.2 + 0.6 * uniform(1), uniform(1)
        first = (1.2 - size) * place - 0.1
        at = (torch.arange(side, device=x.device) + 0.5) / side
        inside.append((at >= first) & (at < first + size))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    scattered = uniform(1, h, w) < (0.3 + 0.65 * uniform(1, 1, 1))
    missing = torch.where(uniform(1, 1, 1) < 0.6, hole, scattered)
    return of_mask(1 - missing.to(x.dtype))


def of_shrunk(factor: int) -> Projection:
    """Onto what means of ``factor x factor`` pixels do not say."""
    return lambda x: x - F.interpolate(F.avg_pool2d(x, factor), scale_factor=factor)


def random_shrinking(x: Tensor, generator: torch.Generator) -> Projection:
    """One of :data:`FACTORS` that divides the sides of ``x`` ``(n, c, h, w)``."""
    fitting = [factor for factor in FACTORS if not any(side % factor for side in x.shape[2:])]
    return of_shrunk(fitting[int(torch.randint(len(fitting), (), generator=generator, device=x.device))])


@dataclass(frozen=True)
class Kind:
    """What may be given."""

    random: Callable[[Tensor, torch.Generator], Projection]
    """The projection for a batch of pictures."""
    highest: float
    """Noise that hides what is not known: 14 / 64 = .22 of the mean of 64 x 64 pixels."""


KINDS = {"gray": Kind(random_gray, 14.0), "mask": Kind(random_mask, 14.0), "shrunk": Kind(random_shrinking, 4.0)}
"""By name."""


def kind(operator: operators.LinearOperator, shape: tuple[int, int, int]) -> str | None:
    """What of :data:`KINDS` it is for pictures of ``shape`` that ``operator`` observes a part."""
    if isinstance(operator, operators.Gray):
        return (
            "gray" if any(map(partial(torch.allclose, torch.tensor(operator.weights)), torch.tensor(GRAYS))) else None
        )
    if isinstance(operator, operators.Mask):
        known = operator(torch.ones(1, 1, *shape))
        return "mask" if bool((known == known[:, :1]).all()) else None
    return "shrunk" if isinstance(operator, operators.Downsample) and operator.method == "box" else None
