"""What a conditional flow is made of: couplings that see the condition, fixed permutations and rotations, downsampling.

Every layer has ``forward(x, condition)``, which also gives the log-determinant ``(n,)``, and ``inverse(x, condition)``.
What is transformed stays float32; under autocast only the networks inside the couplings run in bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from basis_glow.gaussians import full_precision
from basis_glow.layers import InvertibleConv
from torch import Tensor, nn

Subnet = Callable[[int, int], nn.Module]
"""A network of so many inputs and outputs (channels)."""


def dense(width: int, hidden: int) -> Subnet:
    """Fully connected networks with ``hidden`` layers of ``width`` and ReLU; the last layer starts at zero."""

    def network(inputs: int, outputs: int) -> nn.Module:
        layers: list[nn.Module] = []
        for _ in range(hidden):
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        return _from_zero([*layers, nn.Linear(inputs, outputs)])

    return network


def convolutional(width: int, size: int = 3, slope: float = 0.05) -> Subnet:
    """Three convolutions of ``size`` with leaky ReLU between them; the last one starts at zero."""

    def network(inputs: int, outputs: int) -> nn.Module:
        first, second, last = (
            nn.Conv2d(a, b, size, padding=size // 2) for a, b in ((inputs, width), (width, width), (width, outputs))
        )
        return _from_zero([first, nn.LeakyReLU(slope), second, nn.LeakyReLU(slope), last])

    return network


def _from_zero(layers: list[nn.Module]) -> nn.Module:
    last = layers[-1]
    assert isinstance(last, (nn.Linear, nn.Conv2d))
    nn.init.zeros_(last.weight)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers)


class Coupling(nn.Module):
    """Each half of the channels, shifted and scaled by what a network makes of the other half and the condition::

        y1 = e(s2) x1 + t2,   s2, t2 = net2(x2, c);      y2 = e(s1) x2 + t1,   s1, t1 = net1(y1, c)

    The scale is soft-clamped: ``log e(s) = clamp (2 / pi) arctan(s / clamp)``. Of ``condition`` channels ``c``; with
    none the coupling is unconditional. ``head`` is a network of its own that makes ``c`` of what is given.
    """

    def __init__(self, channels: int, condition: int, subnet: Subnet, clamp: float, head: nn.Module | None = None):
        super().__init__()
        self.sizes, self.clamp = (channels // 2, channels - channels // 2), clamp
        self.conditional, self.head = condition > 0, head
        first, second = self.sizes
        self.net1, self.net2 = subnet(first + condition, 2 * second), subnet(second + condition, 2 * first)

    def _seen(self, condition: Tensor | None) -> Tensor | None:
        if not self.conditional:
            return None
        return condition if self.head is None else self.head(condition)

    def _coefficients(self, net: nn.Module, half: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        seen = half if condition is None else torch.cat([half, condition.to(half.dtype)], dim=1)
        s, shift = net(seen).float().chunk(2, dim=1)
        return self.clamp * (2 / math.pi) * torch.atan(s / self.clamp), shift

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        condition = self._seen(condition)
        x1, x2 = x.split(self.sizes, dim=1)
        log_scale2, shift = self._coefficients(self.net2, x2, condition)
        y1 = x1 * log_scale2.exp() + shift
        log_scale1, shift = self._coefficients(self.net1, y1, condition)
        y2 = x2 * log_scale1.exp() + shift
        return torch.cat([y1, y2], dim=1), log_scale1.flatten(1).sum(1) + log_scale2.flatten(1).sum(1)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> Tensor:
        condition = self._seen(condition)
        y1, y2 = y.split(self.sizes, dim=1)
        log_scale, shift = self._coefficients(self.net1, y1, condition)
        x2 = (y2 - shift) * (-log_scale).exp()
        log_scale, shift = self._coefficients(self.net2, x2, condition)
        return torch.cat([(y1 - shift) * (-log_scale).exp(), x2], dim=1)


class Permutation(nn.Module):
    """Channels in a random order that is never changed."""

    order: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("order", torch.randperm(channels, device="cpu"))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x[:, self.order], x.new_zeros(len(x))

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> Tensor:
        return y[:, self.order.argsort()]


class Rotation(nn.Module):
    """A random orthogonal 1 x 1 convolution that is not trained: the one that a Glow's begin as."""

    def __init__(self, channels: int):
        super().__init__()
        self.mix = InvertibleConv(channels).requires_grad_(False)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with full_precision(x):
            return self.mix(x, self.mix.matrix()), x.new_zeros(len(x))

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> Tensor:
        with full_precision(y):
            return self.mix(y, self.mix.matrix().T)


class Squeeze(nn.Module):
    """2 x 2 pixels become channels, those of a channel together."""

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return F.pixel_unshuffle(x, 2), x.new_zeros(len(x))

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> Tensor:
        return F.pixel_shuffle(y, 2)


class Haar(nn.Module):
    """The orthonormal Haar transform, channels in the order of the wavelets: first all averages of 2 x 2 pixels."""

    matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        signs = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]  # it is its own inverse
        self.register_buffer("matrix", torch.tensor(signs) / 2, persistent=False)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        pixels = F.pixel_unshuffle(x, 2).unflatten(1, (-1, 4))
        with full_precision(x):
            return torch.einsum("kp,ncphw->nkchw", self.matrix, pixels).flatten(1, 2), x.new_zeros(len(x))

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> Tensor:
        wavelets = y.unflatten(1, (4, -1))
        with full_precision(y):
            return F.pixel_shuffle(torch.einsum("kp,nkchw->ncphw", self.matrix, wavelets).flatten(1, 2), 2)


class Principal(nn.Module):
    """Pictures ``(n, size)`` along their principal directions, each scaled to variance one: nothing is left out.

    They are pictures with white noise of ``noise``, so that no direction has less variance than that.
    """

    mean: Tensor
    variances: Tensor
    directions: Tensor

    def __init__(self, size: int, noise: float):
        super().__init__()
        self.noise = noise
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variances", torch.ones(size))
        self.register_buffer("directions", torch.eye(size))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and directions ``(size, size)``, by falling variance, from pictures ``(n, size)`` without noise."""
        self.mean.copy_(x.mean(0))
        variances, directions = torch.linalg.eigh((x - self.mean).T.double().cov(correction=0))
        self.variances.copy_(variances.flip(0).clamp_min(0))
        self.directions.copy_(directions.flip(1))

    @torch.no_grad()
    def orthonormalize(self) -> None:
        """Make directions that were rounded orthonormal again: to the nearest that are."""
        left, _, right = torch.linalg.svd(self.directions.double())
        self.directions.copy_(left @ right)

    @property
    def std(self) -> Tensor:
        return (self.variances + self.noise**2).sqrt()

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with full_precision(x):
            z = (x - self.mean) @ self.directions / self.std
        return z, -self.std.log().sum().expand(len(x))

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        with full_precision(z):
            return (z * self.std) @ self.directions.T + self.mean
