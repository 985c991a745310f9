"""CIE Lab, in which lightness is given and colours are drawn, and colours brought up to any size.

Colours are ``a`` and ``b``, standardised over natural photographs, as lightness ``L`` is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from basis_glow.gaussians import full_precision
from torch import Tensor

OFFSETS, SCALES = (47.5, 2.4, 7.4), (25.6, 11.2, 16.8)  # of L, a and b: mean and standard deviation, as published
TO_XYZ = (
    (0.412453, 0.357580, 0.180423),  # sRGB, D65
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.950456, 1.0, 1.088754)
DARK = 6 / 29  # below its cube the cube root is replaced by a line
REACH, RANGE = 1.5, 0.1  # of the joint bilateral filter: pixels of the small picture, standardised lightness
UNLIKE = 1e-6  # weight of what is near but of another lightness, so that every pixel has some colour


def _standardised(lab: Tensor, channels: slice) -> Tensor:
    shift, scale = (lab.new_tensor(values[channels]).view(-1, 1, 1) for values in (OFFSETS, SCALES))
    return (lab - shift) / scale


def to_lab(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """``L`` ``(n, 1, h, w)`` and colours ``(n, 2, h, w)``, standardised, of pictures ``(n, 3, h, w)`` in [0, 1]."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055).clamp_min(0) ** 2.4, rgb / 12.92)
    with full_precision(rgb):
        xyz = torch.einsum("kc,nchw->nkhw", rgb.new_tensor(TO_XYZ), linear) / rgb.new_tensor(WHITE).view(3, 1, 1)
    x, y, z = torch.where(xyz > DARK**3, xyz.clamp_min(DARK**3) ** (1 / 3), xyz / (3 * DARK**2) + 4 / 29).unbind(1)
    lab = torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)
    return _standardised(lab[:, :1], slice(1)), _standardised(lab[:, 1:], slice(1, 3))


def to_rgb(lightness: Tensor, colours: Tensor) -> Tensor:
    """The inverse of :func:`to_lab`, colours that no screen has clipped to [0, 1]."""
    shift, scale = (lightness.new_tensor(values).view(3, 1, 1) for values in (OFFSETS, SCALES))
    lightness, a, b = (torch.cat([lightness, colours], dim=1) * scale + shift).unbind(1)
    y = (lightness + 16) / 116
    root = torch.stack([y + a / 500, y, y - b / 200], dim=1)
    xyz = torch.where(root > DARK, root**3, 3 * DARK**2 * (root - 4 / 29)) * root.new_tensor(WHITE).view(3, 1, 1)
    with full_precision(root):
        linear = torch.einsum("kc,nchw->nkhw", torch.linalg.inv(root.new_tensor(TO_XYZ)), xyz).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(1e-8) ** (1 / 2.4) - 0.055, 12.92 * linear)


def neutral(lightness: Tensor) -> Tensor:
    """The colours ``(n, 2, h, w)`` of gray."""
    shift, scale = (lightness.new_tensor(values[1:]).view(-1, 1, 1) for values in (OFFSETS, SCALES))
    return (-shift / scale).expand(len(lightness), 2, *lightness.shape[2:])


def lightness_of(gray: Tensor) -> Tensor:
    """``L`` of gray pictures ``(n, 1, h, w)`` in [0, 1]."""
    return to_lab(gray.expand(-1, 3, -1, -1))[0]


def shrunk(x: Tensor, side: int) -> Tensor:
    """``x`` ``(n, c, h, w)`` at ``(n, c, side, side)``, whatever its proportions."""
    if x.shape[2:] == (side, side):
        return x
    return F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)


def brought_up(colours: Tensor, small: Tensor, lightness: Tensor) -> Tensor:
    """``colours`` ``(n, 2, s, s)`` of the picture ``small`` ``(n, 1, s, s)`` at the size of ``lightness``.

    A joint bilateral filter (Kopf et al. 2007): of the small picture's pixels near by, those count that have nearly the
    lightness of the pixel itself, so that colours end where things do.
    """
    side = small.shape[-1]
    total, norm = colours.new_zeros(*colours.shape[:2], *lightness.shape[2:]), torch.zeros_like(lightness)
    taps = range(-int(3 * REACH), int(3 * REACH) + 2)
    places = [(torch.arange(n, device=small.device) + 0.5) * side / n - 0.5 for n in lightness.shape[2:]]
    for dy in taps:
        rows, near_y = _tap(places[0], dy, side)
        for dx in taps:
            columns, near_x = _tap(places[1], dx, side)
            weight = UNLIKE + torch.exp(-((small[..., rows, :][..., columns] - lightness) ** 2) / (2 * RANGE**2))
            weight = weight * near_y[:, None] * near_x
            total = total + weight * colours[..., rows, :][..., columns]
            norm = norm + weight
    return total / norm


def _tap(place: Tensor, offset: int, side: int) -> tuple[Tensor, Tensor]:
    """The index of the pixel ``offset`` from each ``place``, and how much it counts."""
    index = place.floor().long() + offset
    return index.clamp(0, side - 1), torch.exp(-((place - index) ** 2) / (2 * REACH**2))
