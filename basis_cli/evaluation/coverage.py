"""Whether samples spread as far as the truth lies from them."""

from __future__ import annotations

import torch
from torch import Tensor


def nominal(draws: int) -> float:
    """How often the truth lies within the range of so many samples of the posterior, and one of them would."""
    return (draws - 1) / (draws + 1)


def covered(drawn: Tensor, truth: Tensor, seed: int = 0) -> Tensor:
    """Which values of the ``truth`` ``(k, n, c, h, w)`` lie within the range of ``drawn`` ``(k, n, r, c, h, w)``.

    In 8-bit levels, as files hold them. Where samples equal the truth, as in a black ground, its place among them is
    drawn by lot: so the share is :func:`nominal` for samples of the posterior, whatever that is.
    """
    levels, true = ((x.clamp(0, 1) * 255).round() for x in (drawn, truth.unsqueeze(2)))
    below, same = (levels < true).sum(2), (levels == true).sum(2)
    lot = torch.rand(truth.shape, generator=torch.Generator().manual_seed(seed))
    place = below + ((same + 1) * lot).floor()
    return (place > 0) & (place < levels.shape[2])
