"""How good a result is: PSNR under the best assignment, reconstruction error."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def psnr(x: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over the last three axes, in [0, 1]; 100 if they are equal."""
    mse = ((x - reference) ** 2).mean(dim=(-3, -2, -1))
    return -10 * mse.clamp_min(1e-10).log10()


def residual(operator_of_x: Tensor, y: Tensor) -> Tensor:
    """Root mean square of ``A x - y`` for each picture ``(n, ...)``, in 8-bit levels (1 = 1/255)."""
    return ((operator_of_x - y).flatten(1) ** 2).mean(1).sqrt() * 255


def assignment(scores: Tensor, kinds: Sequence[Hashable]) -> list[int]:
    """The permutation of components with the highest total of ``scores[target, component]``, ``(k, k)``.

    Only components of the same kind (same prior, same mixing coefficient) may change places. Ties keep their order.
    """
    order = list(range(len(kinds)))
    for kind in set(kinds):
        members = [i for i, other in enumerate(kinds) if other == kind]
        _, columns = linear_sum_assignment(scores[members][:, members].double().cpu().numpy(), maximize=True)
        for target, column in zip(members, columns, strict=True):
            order[target] = members[column]
    return order


def component_order(x: Tensor, kinds: Sequence[Hashable], *, references: Tensor | None, mixture: Tensor) -> Tensor:
    """Which component comes first, second, ... in each mixture: indices ``(k, n)`` for ``x`` ``(k, n, c, h, w)``.

    With ``references`` ``(k, n, c, h, w)``: so that the mean PSNR to them is highest (appendix A.3). Without: by PSNR
    to ``mixture`` ``(n, c, h, w)``, highest first. Components of different kinds never change places.
    """
    k, n = x.shape[:2]
    if references is not None:
        scores = psnr(x[None], references[:, None])  # (target, component, n)
    else:
        rank = torch.arange(k, 0, -1, device=x.device, dtype=x.dtype)
        scores = rank[:, None, None] * psnr(x, mixture)[None]
    return torch.tensor([assignment(scores[:, :, i], kinds) for i in range(n)], device=x.device).T


def reordered(x: Tensor, order: Tensor) -> Tensor:
    """``x`` ``(k, n, c, h, w)`` with the components of each mixture in the ``order`` ``(k, n)``."""
    return x.gather(0, order[:, :, None, None, None].expand_as(x))


def bits_per_dim(log_prob: Tensor, dimensions: int) -> Tensor:
    """Bits for each of a picture's ``dimensions`` values, 8 bits deep, from its log-density in nats over [0, 1]."""
    return math.log2(255) - log_prob / (dimensions * math.log(2))


@dataclass(frozen=True)
class Statistics:
    """What a Frechet distance needs to know of a set of ``count`` pictures, float64."""

    mean: Tensor
    """``(d,)``, of their features."""
    covariance: Tensor
    """``(d, d)``, of their features."""
    count: int

    @classmethod
    def of(cls, features: Tensor) -> Statistics:
        """Those of ``features`` ``(n, d)``, n at least 2."""
        features = features.double()
        return cls(features.mean(0), features.T.cov(), len(features))


Network = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Gives logits ``(n, classes)`` and features ``(n, d)`` of pictures ``(n, 3, h, w)`` in [0, 1]."""


@torch.inference_mode()
def features_of(network: Network, pictures: Tensor, batch: int = 250) -> tuple[Tensor, Tensor]:
    """Logits and features, float64 on the CPU, of ``pictures`` ``(n, 3, h, w)``, uint8 or floats in [0, 1].

    Floats are rounded to 8 bits, as files hold them.
    """
    device = next(network.parameters()).device if isinstance(network, torch.nn.Module) else pictures.device
    found = []
    for part in pictures.split(batch):
        levels = part if part.dtype == torch.uint8 else part.clamp(0, 1).mul(255).round()
        found.append([each.double().cpu() for each in network(levels.to(device).float() / 255)])
    logits, features = map(torch.cat, zip(*found, strict=True))
    return logits, features
