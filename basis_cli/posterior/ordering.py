"""Which component is which: PSNR, and the best assignment of components to what they are compared with."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
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
        for target, column in zip(members, _matched(scores[members][:, members].cpu().double()), strict=True):
            order[target] = members[column]
    return order


def _matched(scores: Tensor) -> Sequence[int]:
    """The column for each row of ``(k, k)`` with the highest total."""
    if len(scores) < 3:  # as most mixtures are: importing scipy.optimize takes longer than separating a digit
        same, swapped = scores.diagonal().sum(), scores.flip(1).diagonal().sum()
        return range(len(scores)) if same >= swapped else (1, 0)
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(scores.numpy(), maximize=True)[1].tolist()


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
