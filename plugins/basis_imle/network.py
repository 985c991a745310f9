"""The networks of TIM / CHIMLE (Peng, Moazeni & Li 2022): modules that double the resolution, each with its own code.

Pictures are ``(n, c, h, w)`` in [0, 1]. A code is a row of white noise: first the style, then noise for every pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from basis_cli.api import operators

STYLE, NOISE = 64, 4
"""Numbers of the style in a code, and channels of noise."""


def conv(inside: int, outside: int) -> nn.Module:
    """3 x 3, weight-normalized, as all of them are."""
    return weight_norm(nn.Conv2d(inside, outside, 3, padding=1))


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees what all before it made; a fifth of the last is added to the input."""

    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.grow = nn.ModuleList(conv(channels + i * growth, growth) for i in range(4))
        self.end = conv(channels + 4 * growth, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for layer in self.grow:
            h = torch.cat([h, F.leaky_relu(layer(h), 0.2)], dim=1)
        return x + 0.2 * self.end(h)


class StyledBlock(nn.Module):
    """Three dense blocks with a residual around them; then each channel is normalized over the picture, and gets the
    scale and shift of the style."""

    def __init__(self, channels: int, growth: int, style: int):
        super().__init__()
        self.dense = nn.Sequential(*(DenseBlock(channels, growth) for _ in range(3)))
        self.modulation = nn.Linear(style, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.modulation(style)[..., None, None].chunk(2, dim=1)
        return torch.addcmul(shift, F.instance_norm(x + 0.2 * self.dense(x)), 1 + scale)


class Module(nn.Module):
    """One resolution: what is given there, noise, and the features of the module before, to a picture and features."""

    def __init__(self, given: int, before: int, channels: int, growth: int, blocks: int, styles: int, out: int):
        super().__init__()
        width = 2 * STYLE
        self.begin_style = nn.Sequential(nn.Linear(STYLE, width), nn.LeakyReLU(0.2))
        self.join_styles = nn.Sequential(nn.Linear((1 + styles) * width, width), nn.LeakyReLU(0.2))
        self.end_style = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(0.2))
        self.begin = conv(given + NOISE + before, channels)
        self.blocks = nn.ModuleList(StyledBlock(channels, growth, width) for _ in range(blocks))
        self.end = conv(channels, channels)
        self.features, self.picture = conv(channels, channels), conv(channels, out)

    def forward(
        self, given: Tensor, style: Tensor, noise: Tensor, before: Tensor | None, styles: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is drawn, the features for the next module, and the style that later ones see."""
        style = self.end_style(self.join_styles(torch.cat([self.begin_style(style), *styles], dim=1)))
        seen = [given, noise] if before is None else [given, noise, 0.1 * before]
        x = self.begin(torch.cat(seen, dim=1))
        h = x
        for block in self.blocks:
            h = block(h, style)
        h = x + self.end(h)
        features = F.leaky_relu(self.features(h), 0.2)
        return self.picture(features), features, style


TASKS = ("upscale", "colorize", "decompress", "paint")


class Generator(nn.Module):
    """``x(y, z)``: a picture for each condition and code, drawn module by module at 1/8, 1/4, 1/2 and all of its size.

    Args:
        task: what is undone, of :data:`TASKS`. Of "colorize" the answer keeps the luma of ``y``, of "upscale" its
            means: what the last module makes is moved there.
        classes: "paint": how many there are.
        factor: "upscale": how many times.
        channels, growth: of the dense blocks of each module; ``blocks``: how many threes of them.

    Raises:
        ValueError: an unknown task, or numbers below one.
    """

    def __init__(
        self,
        task: str,
        classes: int = 0,
        factor: int = 16,
        channels: Sequence[int] = (48, 32, 24, 16),
        growth: Sequence[int] = (16, 12, 8, 8),
        blocks: Sequence[int] = (1, 1, 1, 1),
    ):
        super().__init__()
        if task not in TASKS:
            raise ValueError(f"no task is called {task!r}")
        if not len(channels) == len(growth) == len(blocks) >= 1 or min(*channels, *growth, *blocks, factor) < 1:
            raise ValueError("channels, growth and blocks need a number above zero for each module")
        if task == "paint" and classes < 2:
            raise ValueError(f"{classes} classes cannot be told apart")
        self.config: dict[str, Any] = {"task": task, "classes": classes, "factor": factor}
        self.config |= {"channels": list(channels), "growth": list(growth), "blocks": list(blocks)}
        self.task, self.classes, self.factor = task, classes, factor
        given = {"upscale": 3, "colorize": 1, "decompress": 3, "paint": classes}[task]
        parts = zip([0, *channels[:-1]], channels, growth, blocks, strict=True)
        self.parts = nn.ModuleList(Module(given, *part, styles=i, out=3) for i, part in enumerate(parts))
        nn.init.constant_(self.parts[0].picture.bias, 0.0)

    @property
    def stride(self) -> int:
        """What divides the sides of its answers."""
        return 2 ** (len(self.parts) - 1)

    def sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """``(h, w)`` of the pictures that the modules make of answers of ``size``, which ``stride`` divides."""
        return [(size[0] >> i, size[1] >> i) for i in reversed(range(len(self.parts)))]

    def lengths(self, size: tuple[int, int]) -> list[int]:
        """How many numbers each module's code has."""
        return [STYLE + NOISE * h * w for h, w in self.sizes(size)]

    def conditions(self, y: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """What each module sees of ``y`` ``(n, ...)``: classes ``(n, h, w)`` as their shares, pictures as they are."""
        if self.task == "paint":
            y = F.one_hot(y.long(), self.classes).permute(0, 3, 1, 2)
        y = y.float()
        return [y if each == y.shape[2:] else _resized(y, each) for each in self.sizes(size)]

    def module(
        self, i: int, given: Tensor, code: Tensor, before: Tensor | None, styles: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The picture ``(n, 3, h, w)`` of module ``i``, what the next one sees of it, and its style.

        The module draws what is to be added to the picture that is given; of classes it draws all, in [0, 1].
        """
        noise = code[:, STYLE:].view(-1, NOISE, *given.shape[2:])
        if before is not None:
            before = F.interpolate(before, scale_factor=2.0, mode="nearest")
        x, features, style = self.parts[i](given, code[:, :STYLE], noise, before, styles)
        return x.sigmoid() if self.task == "paint" else given + 0.1 * x, features, style

    def forward(self, y: Tensor, codes: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Every module's picture of ``y``, coarse to fine; ``codes`` are those of :meth:`lengths`."""
        pictures, before, styles = [], None, []
        for i, given in enumerate(self.conditions(y, size)):
            x, before, style = self.module(i, given, codes[i], before, styles)
            styles.append(style)
            pictures.append(x)
        return [*pictures[:-1], self.agreeing(pictures[-1], y)]

    def agreeing(self, x: Tensor, y: Tensor) -> Tensor:
        """``x`` with the luma of ``y``, the nearest such picture, or its means, smoothly; what has neither stays."""
        if self.task == "colorize":
            weights = x.new_tensor(operators.LUMA).view(3, 1, 1)
            return x + weights / weights.square().sum() * (y - (weights * x).sum(1, keepdim=True))
        if self.task == "upscale":
            return x + enlarged_to_means(y - F.avg_pool2d(x, self.factor), self.factor)
        return x


def enlarged_to_means(means: Tensor, factor: int) -> Tensor:
    """The picture ``(n, c, h factor, w factor)`` between pixels ``(n, c, h, w)``, linear, that has the ``means``.

    Means of what is interpolated between the means themselves are others. Correcting by constants shows their edges.
    """
    rows, columns = (_means_between(side, factor).to(means) for side in means.shape[2:])
    pixels = torch.linalg.solve(rows, torch.linalg.solve(columns, means.mT).mT)
    return F.interpolate(pixels, scale_factor=float(factor), mode="bilinear", align_corners=False)


def _means_between(side: int, factor: int) -> Tensor:
    """The matrix ``(side, side)`` from the pixels of a row to the means of every ``factor`` of what is between them."""
    each = F.interpolate(torch.eye(side)[:, None], scale_factor=float(factor), mode="linear", align_corners=False)
    return F.avg_pool1d(each, factor)[:, 0].T


def _resized(y: Tensor, size: tuple[int, int]) -> Tensor:
    """``y`` ``(n, c, h, w)`` shrunk by means, or enlarged between its pixels."""
    if size[0] < y.shape[2]:
        return F.adaptive_avg_pool2d(y, size)
    return F.interpolate(y, size, mode="bilinear", align_corners=False)
