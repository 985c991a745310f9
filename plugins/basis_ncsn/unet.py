"""A small preconditioned U-Net: a denoiser for any noise level. Pictures are ``(n, c, h, w)`` in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Norm(nn.GroupNorm):
    """Group normalization in the precision of its parameters, whatever that of ``x``.

    Of 8 channels a group, torch takes a third of the time for float32 on CPUs that it takes for bfloat16.
    """

    def __init__(self, channels: int):
        super().__init__(8, channels)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class Block(nn.Module):
    """Pre-activation residual block whose second normalization is scaled and shifted by the noise embedding."""

    def __init__(self, in_channels: int, channels: int, embedding: int):
        super().__init__()
        self.norm1 = Norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.norm2 = Norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Identity() if in_channels == channels else nn.Conv2d(in_channels, channels, 1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[..., None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.shortcut(x) + self.conv2(F.silu(h))


class Attention(nn.Module):
    """Residual self-attention over all positions; used at the lowest resolution only."""

    def __init__(self, channels: int, head: int = 32):
        super().__init__()
        self.heads = channels // head
        self.norm = Norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, 3, self.heads, c // self.heads, h * w).transpose(-1, -2).unbind(1)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(-1, -2).reshape(n, c, h, w))


class UNet(nn.Module):
    """A denoiser ``D(x, sigma) = E[x0 | x]`` with the preconditioning of Karras et al. (2022), Table 1.

    ``F`` is a U-Net on ``patch x patch`` pixel blocks, ``len(widths)`` resolutions, ``blocks`` residual blocks at each
    on the way down and again on the way up, and self-attention at the lowest one. Without ``attention`` its cost
    is linear in the pixels, and beyond a bounded view it knows of the picture only what group normalization does: what
    it learns from small pictures nearly holds for large ones. Its input and
    output are scaled so that both have unit variance at every noise level; ``mean`` and ``std`` are the data's, per
    pixel.
    Any sigma > 0 is accepted; accuracy is what training covered: all levels up to ``sigma_max``, or ``sigmas`` if
    given, high to low. Noise of s hides the mean of n pixels if ``s / sqrt(n)`` exceeds that mean's spread: a network
    learns to guess the colours of large areas only from noise that hides them.
    So is any size: inside, sides that are no multiples of the stride are padded by reflection.

    ``given`` names what the network has also learned to take as known (:mod:`.given`): then noise lies only in the
    rest of the picture, and it denoises ``x0 + sigma P z``, with ``P`` the projection onto that rest.

    Raises:
        ValueError: a width that is not a multiple of 8, or the last one of 32 (the size of an attention head).
    """

    def __init__(
        self,
        channels: int = 1,
        widths: tuple[int, ...] = (64, 128),
        blocks: int = 2,
        patch: int = 2,
        mean: float = 0.5,
        std: float = 0.25,
        sigmas: Sequence[float] | None = None,
        attention: bool = True,
        sigma_max: float = 1.4,
        given: Sequence[str] = (),
    ):
        super().__init__()
        self.given = tuple(given)
        self.sigmas, self.sigma_max = tuple(sigmas) if sigmas else None, sigma_max
        if not widths or any(width < 8 or width % 8 for width in widths) or widths[-1] % 32:
            raise ValueError(f"widths must be multiples of 8 and the last of 32, not {tuple(widths)}")
        self.patch, self.mean, self.std = patch, mean, std
        self.any_size = not attention
        self.stride = patch * 2 ** (len(widths) - 1)
        embedding = 2 * widths[0]
        self.register_buffer("frequencies", 2.0 ** torch.linspace(-2, 4, 16), persistent=False)
        self.embed = nn.Sequential(nn.Linear(32, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.partial = nn.Parameter(torch.zeros(embedding)) if given else None
        self.begin = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            stage = nn.ModuleDict({"blocks": nn.ModuleList(Block(width, width, embedding) for _ in range(blocks))})
            if i + 1 < len(widths):
                stage["resample"] = nn.Conv2d(width, widths[i + 1], 3, stride=2, padding=1)
            self.down.append(stage)
        self.attention = Attention(widths[-1]) if attention else nn.Identity()
        for i in reversed(range(len(widths) - 1)):
            width = widths[i]
            stage = nn.ModuleDict({"resample": nn.Conv2d(widths[i + 1], 4 * width, 1)})
            stage["blocks"] = nn.ModuleList(
                Block(2 * width if j == 0 else width, width, embedding) for j in range(blocks)
            )
            self.up.append(stage)
        self.norm = Norm(widths[0])
        self.end = nn.Conv2d(widths[0], channels * patch**2, 3, padding=1)
        nn.init.zeros_(self.end.weight)
        nn.init.zeros_(self.end.bias)

    def raw(self, x: Tensor, c_noise: Tensor, partial: bool = False) -> Tensor:
        """The network proper, ``F(c_in x, c_noise)``; ``partial``: part of ``x`` has no noise."""
        angles = c_noise[:, None] * self.frequencies * math.pi
        embedding = self.embed(torch.cat([angles.cos(), angles.sin()], dim=1).to(x.dtype))
        embedding = embedding + self.partial if partial else embedding
        h = self.begin(F.pixel_unshuffle(x, self.patch))
        skips = []
        for stage in self.down:
            for block in stage["blocks"]:
                h = block(h, embedding)
            if "resample" in stage:
                skips.append(h)
                h = stage["resample"](h)
        h = self.attention(h)
        for stage in self.up:
            h = torch.cat([F.pixel_shuffle(stage["resample"](h), 2), skips.pop()], dim=1)
            for block in stage["blocks"]:
                h = block(h, embedding)
        return F.pixel_shuffle(self.end(F.silu(self.norm(h))), self.patch)

    def forward(self, x: Tensor, sigma: Tensor, unknown: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """``E[x0 | x]`` for ``x = x0 + sigma z``: ``x`` ``(n, c, h, w)``, ``sigma`` ``(n,)`` or ``(1,)``.

        With the projection ``unknown`` ``P``, for ``x = x0 + sigma P z``.
        """
        s = sigma[:, None, None, None]
        total = s**2 + self.std**2
        centred = x - self.mean
        if unknown:  # what is known has the scale of pictures without noise
            noisy = unknown(centred)
            scaled = noisy * total.rsqrt() + (centred - noisy) / self.std
        else:
            scaled = centred * total.rsqrt()
        h, w = x.shape[2:]
        raw = self.raw(reflected(scaled, self.stride), sigma.log() / 4, unknown is not None)[..., :h, :w].float()
        denoised = self.mean + centred * (self.std**2 / total) + raw * (s * self.std * total.rsqrt())
        return x + unknown(denoised - x) if unknown else denoised

    def score(self, x: Tensor, sigma: Tensor, unknown: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """``grad log p_sigma(x) = (D(x, sigma) - x) / sigma^2`` (Tweedie)."""
        return (self(x, sigma, unknown) - x) / sigma[:, None, None, None] ** 2


def reflected(x: Tensor, stride: int) -> Tensor:
    """``x`` ``(n, c, h, w)`` continued by its reflection, as often as it takes, to sides that ``stride`` divides."""
    for axis in (2, 3):
        side = x.shape[axis]
        if side % stride:
            place = torch.arange(-(-side // stride) * stride, device=x.device) % max(2 * side - 2, 1)
            x = x.index_select(axis, torch.minimum(place, 2 * side - 2 - place).clamp_min(0))
    return x
