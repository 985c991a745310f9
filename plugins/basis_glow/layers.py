"""What a Glow is made of: actnorm, convolutions with edges, affine couplings, invertible 1 x 1 convolutions.

What is transformed stays float32; under autocast only the networks inside the couplings run in bfloat16.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .gaussians import full_precision

UNCHANGED = math.log1p(math.exp(-2))  # makes the scale of a coupling one before it has learned anything


def inverse(matrix: Tensor) -> Tensor:
    """Computed in float64, which Apple GPUs do not have."""
    wide = (matrix.cpu() if matrix.device.type == "mps" else matrix).double()
    return torch.linalg.inv(wide).to(matrix.dtype).to(matrix.device)


class Noise(NamedTuple):
    """What the flow knows of the noise level, in one row for all pictures or one for each."""

    embedding: Tensor
    """``(rows, width)``."""
    strength: Tensor | None
    """What all shifts and logarithms of scales are multiplied with behind a :class:`Whitening`, ``(rows, 1, 1, 1)``.

    It fades at much noise, where the flow is nearly a rotation then and the density nearly a Gaussian: what is learned
    for little noise, where most of the gradient comes from, should disturb that as little as may be.
    """


def softened(noise: Noise | None, *values: Tensor) -> tuple[Tensor, ...]:
    """Shifts or logarithms of scales, times the strength of a noise level."""
    if noise is None or noise.strength is None:
        return values
    return tuple(noise.strength * value for value in values)


class ActNorm(nn.Module):
    """``(x + bias) exp(log_scale)`` for each channel; in a conditional model both also depend on the noise level."""

    def __init__(self, channels: int, embedding: int = 0):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.logs = nn.Parameter(torch.zeros(channels))
        self.modulation = nn.Linear(embedding, 2 * channels) if embedding else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)
        self.watching = False  # only during Glow.initialize

    def at(self, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """``log_scale`` and ``bias``, each ``(rows, channels, 1, 1)``; one row, or one for each of ``noise``."""
        log_scale, bias = 3 * self.logs[None], self.bias[None]  # as published: scales learn three times as fast
        if self.modulation is not None and noise is not None:
            with full_precision(noise.embedding):
                more = self.modulation(noise.embedding).chunk(2, dim=1)
            log_scale, bias = log_scale + more[0], bias + more[1]
        return log_scale[..., None, None], bias[..., None, None]

    def watch(self, x: Tensor) -> None:
        """Choose ``bias`` and ``logs`` so that ``x`` comes out with mean 0 and variance 1."""
        std, mean = torch.std_mean(x.float(), dim=(0, 2, 3))
        self.bias.copy_(-mean)
        self.logs.copy_((std + 1e-6).log() / -3)


class NormalizedConv(nn.Module):
    """A convolution, then actnorm; a 3 x 3 one also sees where the picture ends (weights ``edge``).

    ``zero`` makes the one that ends a network: it starts at zero and is left out of the initialization from data.
    """

    def __init__(self, in_channels: int, channels: int, size: int, embedding: int, zero: bool = False):
        super().__init__()
        std = 0.0 if zero else 0.05
        self.weight = nn.Parameter(std * torch.randn(channels, in_channels, size, size))
        self.edge = nn.Parameter(std * torch.randn(channels, 1, 3, 3)) if size == 3 else None
        self.norm = ActNorm(channels, embedding)
        self.padding, self.zero = size // 2, zero

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        if self.norm.watching and not self.zero:
            self.norm.watch(self.convolved(x, self.weight, self.outside(x)))
        log_scale, bias = self.norm.at(noise)
        scale = log_scale.exp()
        shift = (bias + self.outside(x)) * scale
        if len(scale) == 1:  # one noise level for all: scaled weights save a pass over the activations
            return self.convolved(x, self.weight * scale.view(-1, 1, 1, 1), shift)
        y = F.conv2d(x, self.weight, padding=self.padding)
        return torch.addcmul(shift.to(y.dtype), y, scale.to(y.dtype))

    def convolved(self, x: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        """``x`` convolved with ``weight``, plus ``shift``, ``(1, channels, 1, 1)`` or ``(1, channels, h, w)``."""
        if self.edge is None:
            return F.conv2d(x, weight, shift.flatten(), padding=self.padding)
        y = F.conv2d(x, weight, padding=self.padding)
        return y.add_(shift.to(y.dtype))

    def outside(self, x: Tensor) -> Tensor:
        """What the edge weights make of a plane that is one outside of the picture: ``(1, channels, h, w)``."""
        if self.edge is None:
            return torch.zeros(1, len(self.weight), 1, 1, device=x.device)
        with full_precision(x):
            return F.conv2d(F.pad(torch.zeros(1, 1, *x.shape[2:], device=x.device), (1, 1, 1, 1), value=1), self.edge)


class Coupling(nn.Module):
    """Half of the channels, shifted and scaled by what a small network makes of the other half.

    ``smooth`` puts SiLU where the published network has ReLU, whose derivative jumps, and with it the score.
    """

    def __init__(self, channels: int, width: int, embedding: int, smooth: bool):
        super().__init__()
        self.activation = F.silu if smooth else torch.relu_
        self.conv1 = NormalizedConv(channels // 2, width, 3, embedding)
        self.conv2 = NormalizedConv(width, width, 1, embedding)
        self.conv3 = NormalizedConv(width, channels, 3, embedding, zero=True)

    def shift_and_scale(self, kept: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """The shift and the logarithm of the scale for the other half, as large as ``kept``."""
        h = self.activation(self.conv1(kept, noise))
        h = self.activation(self.conv2(h, noise))
        shift, scale = self.conv3(h, noise).float().chunk(2, dim=1)
        log_scale = F.logsigmoid(scale + 2)
        if noise is not None and noise.strength is not None:
            shift, log_scale = softened(noise, shift, log_scale + UNCHANGED)
        return shift, log_scale

    def forward(self, z: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        kept, other = z.chunk(2, dim=1)
        shift, log_scale = self.shift_and_scale(kept, noise)
        return torch.cat([kept, (other + shift) * log_scale.exp()], dim=1), log_scale.flatten(1).sum(1)

    def inverse(self, z: Tensor, noise: Noise | None) -> Tensor:
        kept, other = z.chunk(2, dim=1)
        shift, log_scale = self.shift_and_scale(kept, noise)
        return torch.cat([kept, other * (-log_scale).exp() - shift], dim=1)


class InvertibleConv(nn.Module):
    """A 1 x 1 convolution as ``P L (U + diag s)``: its log-determinant is ``sum log |s|``. Starts as a rotation."""

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("permutation", torch.zeros(channels, dtype=torch.int64))
        self.register_buffer("sign", torch.ones(channels))
        self.lower = nn.Parameter(torch.empty(channels, channels))
        self.upper = nn.Parameter(torch.empty(channels, channels))
        self.log_s = nn.Parameter(torch.empty(channels))
        self.set(torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64, device="cpu"))[0])

    @torch.no_grad()
    def set(self, matrix: Tensor) -> None:
        """Make this the convolution by ``matrix`` ``(channels out, channels in)``, which must be invertible."""
        p, lower, upper = torch.linalg.lu(matrix.double())
        self.permutation.copy_(p.argmax(1))
        self.sign.copy_(upper.diag().sign())
        self.lower.copy_(lower.tril(-1))
        self.upper.copy_(upper.triu(1))
        self.log_s.copy_(upper.diag().abs().log())

    def matrix(self) -> Tensor:
        """``(channels out, channels in)``."""
        lower = self.lower.tril(-1) + torch.eye(len(self.log_s), device=self.lower.device, dtype=self.lower.dtype)
        upper = self.upper.triu(1) + (self.sign * self.log_s.exp()).diag()
        return (lower @ upper)[self.permutation]

    def forward(self, z: Tensor, matrix: Tensor) -> Tensor:
        """``z`` ``(n, channels, h, w)`` through ``matrix``; as a matrix product, since a convolution of so few
        channels rounds differently with the number of pictures."""
        return F.linear(z.permute(0, 2, 3, 1), matrix).permute(0, 3, 1, 2)


class Step(nn.Module):
    """A step of flow: actnorm, invertible 1 x 1 convolution, affine coupling."""

    def __init__(self, channels: int, width: int, embedding: int, smooth: bool):
        super().__init__()
        self.actnorm = ActNorm(channels, embedding)
        self.mix = InvertibleConv(channels)
        self.coupling = Coupling(channels, width, embedding, smooth)

    def forward(self, z: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """The transformed ``z`` and the log-determinant, ``(n,)``."""
        if self.actnorm.watching:
            self.actnorm.watch(z)
        log_scale, bias = softened(noise, *self.actnorm.at(noise))
        with full_precision(z):
            z = self.mix((z + bias) * log_scale.exp(), self.mix.matrix())
        log_det = z[0, 0].numel() * (log_scale.flatten(1).sum(1) + self.mix.log_s.sum())
        z, more = self.coupling(z, noise)
        return z, log_det + more

    def inverse(self, z: Tensor, noise: Noise | None) -> Tensor:
        z = self.coupling.inverse(z, noise)
        log_scale, bias = softened(noise, *self.actnorm.at(noise))
        with full_precision(z):
            z = self.mix(z, inverse(self.mix.matrix()))
        return z * (-log_scale).exp() - bias
