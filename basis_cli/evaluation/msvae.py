"""How Boukun & Lücke (2026, MS-VAE) judge separations of digits."""

from __future__ import annotations

import torch
from torch import Tensor

from ..posterior import ordering
from . import metrics


def judged(x: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """``psnr`` in dB and ``ssim`` of components ``x`` ``(k, n, c, h, w)`` to the ``truth``, each ``(n,)``.

    A component whose largest value exceeds 1 is divided by it. Components are matched to the true ones so that the
    mean SSIM is highest; both figures are means over them.
    """
    x = x / x.amax((-3, -2, -1), keepdim=True).clamp_min(1)
    likeness = torch.stack([metrics.ssim(x, target[None]) for target in truth])  # (target, component, n)
    order = [ordering.assignment(likeness[..., i], [0] * len(x)) for i in range(x.shape[1])]
    matched = ordering.reordered(x, torch.tensor(order).T)
    return {"psnr": ordering.psnr(matched, truth).mean(0), "ssim": metrics.ssim(matched, truth).mean(0)}
