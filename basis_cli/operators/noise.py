"""How much white noise there is in what was observed."""

from __future__ import annotations

import torch
from torch import Tensor

CLEAN = 0.015
"""Less than this is what photographs of 64 x 64 pixels without noise look like: their own finest detail."""
FEW = 64
"""Of fewer values nothing is concluded."""


def noise_std(picture: Tensor) -> float:
    """The standard deviation of the white noise in a ``picture`` ``(c, h, w)`` in [0, 1]; 0 if there is next to none.

    Values that are NaN are not known. Where a quarter of the picture and more is exactly black (or white), noise was
    cut there: of a flat black ground half of the noise is left, so that there are at least as many values above as at
    black, and the lower half of those as many are within the median of ``|n|``, which is .6745 standard deviations.
    Else from third differences along both axes, which smooth shapes do not have: the lower quarter of their absolute
    values, since edges lift the rest. Only where nothing is cut; of a photograph it is some thousandths too high.
    """
    known = picture[~picture.isnan()]
    for values in (known, 1 - known):
        cut = int((values <= 0).sum())
        if cut >= len(values) / 4:
            above = values[values > 0].sort().values
            lost = int((above[:1] == above).sum()) // 2  # rounded to black: half as many as to the first level above
            return _clean(float(above[(cut - 3 * lost) // 2]) / 0.6745) if len(above) > cut - 2 * lost > lost else 0.0
    if min(picture.shape[1:]) < 4:
        return 0.0
    third = picture.new_tensor([1.0, -3.0, 3.0, -1.0])
    kernel = torch.outer(third, third).flatten()
    windows = picture.unfold(1, 4, 1).unfold(2, 4, 1).flatten(3)
    free = ((windows > 0) & (windows < 1)).all(-1)  # false where a value is not known
    differences = (windows[free] @ kernel).abs() / kernel.norm()
    if len(differences) < FEW:
        return 0.0
    return _clean(float(differences.sort().values[len(differences) // 4]) / 0.3186)


def _clean(std: float) -> float:
    return float(f"{std:.2g}") if std >= CLEAN else 0.0
