"""The RefineNet of Song & Ermon (2019) and the ResNet of its toy experiments: scores at fixed noise levels.

Pictures are ``(n, c, h, w)`` in [0, 1].
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCHEDULES = {"geometric": np.geomspace, "linear": np.linspace}
"""Ladders of noise levels: a constant ratio (Song & Ermon 2019), or a constant difference."""


def ladder(schedule: str, levels: int, begin: float = 1.0, end: float = 0.01) -> tuple[float, ...]:
    """``levels`` noise levels from ``begin`` down to ``end``; a single one is ``begin``.

    Raises:
        ValueError: an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"the schedule must be one of {', '.join(SCHEDULES)}, not {schedule!r}")
    return tuple(SCHEDULES[schedule](begin, end, levels).tolist())


def conv3x3(in_channels: int, channels: int, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, padding=dilation, dilation=dilation, bias=bias)


class InstanceNormPlus(nn.Module):
    """Instance normalization that adds back the planes' means, themselves normalized over the channels.

    Scale, weight of the means and shift are looked up by noise level (Song & Ermon 2019, appendix A.1).
    """

    def __init__(self, channels: int, levels: int):
        super().__init__()
        self.embed = nn.Embedding(levels, 3 * channels)
        nn.init.normal_(self.embed.weight[:, : 2 * channels], 1, 0.02)
        nn.init.zeros_(self.embed.weight[:, 2 * channels :])

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        gamma, alpha, beta = self.embed(level)[..., None, None].chunk(3, dim=1)
        x = x.float()  # under autocast too: bfloat16 means are too coarse
        mean = x.mean(dim=(2, 3), keepdim=True)
        centred = x - mean  # on the CPU these two passes take half the time of var_mean or instance_norm
        scale = gamma * (centred.square().mean(dim=(2, 3), keepdim=True) + 1e-5).rsqrt()
        between, grand_mean = torch.var_mean(mean, dim=1, keepdim=True)
        shift = beta + gamma * alpha * (mean - grand_mean) * (between + 1e-5).rsqrt()
        return torch.addcmul(shift, centred, scale)


class Unnormalized(nn.Module):
    """In place of :class:`InstanceNormPlus`, in NCSNv2's refinement."""

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return x


def normalization(channels: int, levels: int) -> nn.Module:
    """For so many noise levels; 0: none."""
    return InstanceNormPlus(channels, levels) if levels else Unnormalized()


class ResidualBlock(nn.Module):
    """Pre-activation block of the downward path. The first of a stage (``enter``) has a learned shortcut.

    Without dilation an entering block also halves the picture; with it, dilation stands in for the smaller picture.
    """

    def __init__(self, in_channels: int, channels: int, levels: int, dilation: int = 1, enter: bool = False):
        super().__init__()
        self.normalize1 = InstanceNormPlus(in_channels, levels)
        self.conv1 = conv3x3(in_channels, in_channels, dilation)
        self.normalize2 = InstanceNormPlus(in_channels, levels)
        self.conv2: nn.Module = conv3x3(in_channels, channels, dilation)
        self.shortcut: nn.Module = nn.Identity()
        if enter and dilation > 1:
            self.shortcut = conv3x3(in_channels, channels, dilation)
        elif enter:
            self.conv2 = self.halved(self.conv2)
            self.shortcut = self.halved(nn.Conv2d(in_channels, channels, 1))

    @staticmethod
    def halved(conv: nn.Module) -> nn.Sequential:
        return nn.Sequential(OrderedDict(conv=conv, pool=nn.AvgPool2d(2)))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.conv1(F.elu(self.normalize1(x, level)))
        return self.shortcut(x) + self.conv2(F.elu(self.normalize2(h, level)))


class Stage(nn.ModuleList):
    """Two residual blocks."""

    def __init__(self, in_channels: int, channels: int, levels: int, dilation: int = 1, enter: bool = True):
        first = ResidualBlock(in_channels, channels, levels, dilation, enter)
        super().__init__([first, ResidualBlock(channels, channels, levels, dilation)])

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        for block in self:
            x = block(x, level)
        return x


class ResidualUnits(nn.ModuleDict):
    """``units`` times ``x + conv(act(norm(conv(act(norm(x))))))``, the RCU of RefineNet."""

    def __init__(self, channels: int, units: int, levels: int):
        super().__init__()
        self.units = units
        for unit in range(1, units + 1):
            for half in (1, 2):
                self[f"{unit}_{half}_norm"] = normalization(channels, levels)
                self[f"{unit}_{half}_conv"] = conv3x3(channels, channels, bias=False)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        for unit in range(1, self.units + 1):
            h = x
            for half in (1, 2):
                h = self[f"{unit}_{half}_conv"](F.elu(self[f"{unit}_{half}_norm"](h, level)))
            x = x + h
        return x


class Fusion(nn.Module):
    """Adds feature maps of several sizes at the size of the first, the multi-resolution fusion of RefineNet."""

    def __init__(self, in_channels: list[int], channels: int, levels: int):
        super().__init__()
        self.norms = nn.ModuleList(normalization(c, levels) for c in in_channels)
        self.convs = nn.ModuleList(conv3x3(c, channels) for c in in_channels)

    def forward(self, xs: list[Tensor], level: Tensor) -> Tensor:
        maps = [conv(norm(x, level)) for x, norm, conv in zip(xs, self.norms, self.convs, strict=True)]
        size = xs[0].shape[2:]
        return reduce(torch.add, (F.interpolate(h, size, mode="bilinear", align_corners=True) for h in maps))


class ChainedPooling(nn.Module):
    """Adds twice a pooled and convolved copy of the copy before, the chained residual pooling of RefineNet."""

    def __init__(self, channels: int, levels: int):
        super().__init__()
        self.norms = nn.ModuleList(normalization(channels, levels) for _ in range(2))
        self.convs = nn.ModuleList(conv3x3(channels, channels, bias=False) for _ in range(2))
        self.pool = F.avg_pool2d if levels else F.max_pool2d

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        x = path = F.elu(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            path = conv(self.pool(norm(path, level), 5, stride=1, padding=2))
            x = x + path
        return x


class RefineBlock(nn.Module):
    """One step of the upward path: refines feature maps of ``in_channels[i]`` channels and joins them."""

    def __init__(self, in_channels: list[int], channels: int, levels: int, units: int = 1):
        super().__init__()
        self.adapt_convs = nn.ModuleList(ResidualUnits(c, 2, levels) for c in in_channels)
        if len(in_channels) > 1:
            self.msf = Fusion(in_channels, channels, levels)
        self.crp = ChainedPooling(channels, levels)
        self.output_convs = ResidualUnits(channels, units, levels)

    def forward(self, xs: list[Tensor], level: Tensor) -> Tensor:
        adapted = [adapt(x, level) for x, adapt in zip(xs, self.adapt_convs, strict=True)]
        h = self.msf(adapted, level) if len(adapted) > 1 else adapted[0]
        return self.output_convs(self.crp(h, level), level)


class FixedLevels(nn.Module):
    """A score network with one set of normalization parameters for each of its noise levels.

    The levels are ``sigmas`` as floats and ``levels`` as a tensor, both high to low; ``forward(x, level)`` is the score
    at those with indices ``level`` ``(n,)`` int64.
    """

    levels: Tensor

    def __init__(self, sigmas: Sequence[float]):
        super().__init__()
        self.sigmas: tuple[float, ...] = tuple(sigmas)
        self.register_buffer("levels", torch.tensor(self.sigmas), persistent=False)

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """``grad log p_sigma(x)`` for any ``sigma`` ``(n,)`` or ``(1,)``: the nearest trained level's (in log sigma)
        times ``level / sigma``.

        At a trained level the factor is 1. Between levels it is an approximation: a score's size goes as 1 / sigma,
        which Song & Ermon (2020, section 3.3) rely on to share one network among all levels.
        """
        level = (self.levels.log() - sigma.log()[:, None]).abs().argmin(dim=1)
        return self(x, level) * (self.levels[level] / sigma)[:, None, None, None]


class RefineNet(FixedLevels):
    """The network of the NCSN paper (Song & Ermon 2019), trained at ``levels`` fixed noise levels.

    A dilated RefineNet with 64 ``filters`` for MNIST and 128 for CIFAR-10. Modules are named, and parameters shaped, as
    in the authors' ``CondRefineNetDilated``, so that their checkpoints load. Pictures of any size fit.

    ``version`` 2 is the network of NCSNv2 (Song & Ermon 2020): the same for all levels but for its output, which is
    divided by sigma, and without normalization, but with maxima for means, in the refinement.
    """

    def __init__(
        self,
        channels: int = 1,
        filters: int = 64,
        levels: int = 10,
        sigma_begin: float = 1.0,
        sigma_end: float = 0.01,
        schedule: str = "geometric",
        version: int = 1,
    ):
        super().__init__(ladder(schedule, levels, sigma_begin, sigma_end))
        self.version, levels, refined = version, *((levels, levels) if version == 1 else (1, 0))
        narrow, wide = filters, 2 * filters
        self.begin_conv = conv3x3(channels, narrow)
        self.res1 = Stage(narrow, narrow, levels, enter=False)
        self.res2 = Stage(narrow, wide, levels)
        self.res3 = Stage(wide, wide, levels, dilation=2)
        self.res4 = Stage(wide, wide, levels, dilation=4)
        self.refine1 = RefineBlock([wide], wide, refined)
        self.refine2 = RefineBlock([wide, wide], wide, refined)
        self.refine3 = RefineBlock([wide, wide], narrow, refined)
        self.refine4 = RefineBlock([narrow, narrow], narrow, refined, units=3)
        self.normalizer = InstanceNormPlus(narrow, levels)
        self.end_conv = conv3x3(narrow, channels)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """``grad log p(x)`` at the noise levels with indices ``level`` ``(n,)``: ``x`` ``(n, c, h, w)``."""
        if self.version == 2:
            return self._forward(x, torch.zeros_like(level)) / self.levels[level][:, None, None, None]
        return self._forward(x, level)

    def _forward(self, x: Tensor, level: Tensor) -> Tensor:
        h1 = self.res1(self.begin_conv(2 * x - 1), level)
        h2 = self.res2(h1, level)
        h3 = self.res3(h2, level)
        h4 = self.res4(h3, level)
        h = self.refine1([h4], level)
        h = self.refine2([h3, h], level)
        h = self.refine3([h2, h], level)
        h = self.refine4([h1, h], level)
        return self.end_conv(F.elu(self.normalizer(h, level)))


class ResNet(FixedLevels):
    """An encoder and a decoder of five residual blocks each, without connections between them.

    The toy network of the NCSN paper as Matosevic et al. (2019, section 3.2) describe it, with the conditional
    normalization and the dilations of its main one: ``filters`` times 1, 2, 2, 4, 4 channels, half the size after the
    second and the fourth block, and dilations 1, 1, 2, 2, 4. The decoder mirrors it with transposed convolutions. Sides
    must be multiples of 4.
    """

    stride = 4

    def __init__(
        self,
        channels: int = 1,
        filters: int = 32,
        levels: int = 10,
        sigma_begin: float = 1.0,
        sigma_end: float = 0.01,
        schedule: str = "geometric",
    ):
        super().__init__(ladder(schedule, levels, sigma_begin, sigma_end))
        widths = [filters * factor for factor in (1, 2, 2, 4, 4)]
        self.begin_conv = conv3x3(channels, widths[0])
        self.blocks, self.resample = nn.ModuleList(), nn.ModuleList()
        for i, (before, width, dilation) in enumerate(zip([widths[0], *widths], widths, (1, 1, 2, 2, 4), strict=False)):
            self.blocks.append(ShortcutBlock(before, width, levels, dilation))
            self.resample.append(nn.Conv2d(width, width, 3, 2, 1) if i in (1, 3) else nn.Identity())
        downward = widths[::-1]
        for i, (before, width, dilation) in enumerate(
            zip([downward[0], *downward], downward, (4, 2, 2, 1, 1), strict=False)
        ):
            self.blocks.append(ShortcutBlock(before, width, levels, dilation))
            enlarge = nn.ConvTranspose2d(width, width, 3, 2, 1, output_padding=1)
            self.resample.append(enlarge if i in (1, 3) else nn.Identity())
        self.normalizer = InstanceNormPlus(widths[0], levels)
        self.end_conv = conv3x3(widths[0], channels)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """As :class:`RefineNet`."""
        h = self.begin_conv(2 * x - 1)
        for block, resample in zip(self.blocks, self.resample, strict=True):
            h = resample(block(h, level))
        return self.end_conv(F.elu(self.normalizer(h, level)))


class ShortcutBlock(ResidualBlock):
    """A residual block at one size, its shortcut a 1 x 1 convolution where the number of channels changes."""

    def __init__(self, in_channels: int, channels: int, levels: int, dilation: int):
        super().__init__(in_channels, channels, levels, dilation)
        if in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1)
