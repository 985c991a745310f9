"""Conditional invertible networks (Ardizzone et al. 2019): pictures to white noise and back, given a condition.

A code ``z`` ``(n, d)`` has as many numbers as a picture: first what left earliest. All densities are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .condition import ConditionNetwork
from .layers import Coupling, Haar, Permutation, Principal, Rotation, Squeeze, convolutional, dense


class ConditionalFlow(nn.Module):
    """``p(x | y)``: ``stages`` of layers, each stage with features of ``y``; behind each some channels leave as code.

    A subclass says what the features are.

    Attributes:
        shape: ``(c, h, w)`` of what is modelled.
        kept: shape of what goes on behind each stage: ``(c, h, w)``, or ``(c,)`` where it is flat.
        left: channels that leave behind each stage.
    """

    config: dict[str, Any]

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__()
        self.shape, self.size = shape, math.prod(shape)
        self.stages = nn.ModuleList()
        self.kept: list[tuple[int, ...]] = []
        self.left: list[int] = []

    def _add(self, layers: Sequence[nn.Module], kept: tuple[int, ...], left: int = 0) -> None:
        self.stages.append(nn.ModuleList(layers))
        self.kept.append(kept)
        self.left.append(left)

    def features(self, y: Tensor) -> list[Tensor | None]:
        """What the layers of each stage see of ``y``."""
        raise NotImplementedError

    def encode(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The code ``(n, d)`` of ``x`` ``(n, c, h, w)`` given ``y`` ``(n, ...)``, and the log-determinant ``(n,)``."""
        x, log_det, leaving = x.float(), torch.zeros(len(x), device=x.device), []
        for layers, features, kept, left in zip(self.stages, self.features(y), self.kept, self.left, strict=True):
            x = x.flatten(1) if len(kept) == 1 else x
            for layer in layers:
                x, more = layer(x, features)
                log_det = log_det + more
            x, out = x.split([kept[0], left], dim=1)
            leaving.append(out.flatten(1))
        return torch.cat([*leaving, x.flatten(1)], dim=1), log_det

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """The pictures ``(n, c, h, w)`` that :meth:`encode` makes ``z`` of."""
        sizes = [left * math.prod(kept[1:]) for kept, left in zip(self.kept, self.left, strict=True)]
        *leaving, x = z.float().split([*sizes, self.size - sum(sizes)], dim=1)
        stages = list(zip(self.stages, self.features(y), self.kept, self.left, leaving, strict=True))
        for layers, features, kept, left, out in reversed(stages):
            x = torch.cat([x.view(len(z), *kept), out.view(len(z), left, *kept[1:])], dim=1)
            for layer in reversed(layers):
                x = layer.inverse(x, features)
        return x.view(-1, *self.shape)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``log p(x | y)`` in nats, ``(n,)``."""
        z, log_det = self.encode(x, y)
        return log_det - 0.5 * z.square().sum(1) - 0.5 * self.size * math.log(2 * math.pi)


class ClassFlow(ConditionalFlow):
    """Pictures of a class ``y`` ``(n,)``, an integer: ``blocks`` permutations and couplings, fully connected.

    What is modelled are pictures in [0, 1] with white noise of standard deviation ``noise``. The couplings' networks
    have ``hidden`` layers of ``width`` and see the class as a one-hot vector.

    With ``directions``, pictures are first seen along their principal directions, and only so many go on to the
    couplings; the others, nearly all noise, are left a Gaussian. With none this is the network of the paper, on pixels.

    Raises:
        ValueError: more directions than a picture has pixels, or numbers below one.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 28, 28),
        blocks: int = 10,
        width: int = 256,
        hidden: int = 2,
        directions: int = 256,
        classes: int = 10,
        clamp: float = 1.5,
        noise: float = 0.1,
    ):
        super().__init__(shape)
        if min(blocks, width, hidden, classes) < 1 or not clamp > 0 or not noise > 0:
            raise ValueError("blocks, width, hidden layers, classes, clamp and noise must be above zero")
        if not (directions == 0 or 2 <= directions < self.size):
            raise ValueError(f"{directions} directions of {self.size} values")
        self.config = {"shape": shape, "blocks": blocks, "width": width, "hidden": hidden}
        self.config |= {"directions": directions, "classes": classes, "clamp": clamp, "noise": noise}
        self.classes, self.noise, size = classes, noise, directions or self.size
        if directions:
            self._add([Principal(self.size, noise)], (directions,), self.size - directions)
        steps = ((Permutation(size), Coupling(size, classes, dense(width, hidden), clamp)) for _ in range(blocks))
        self._add([layer for step in steps for layer in step], (size,))

    @property
    def principal(self) -> Principal | None:
        """What turns pictures to their principal directions, if they are."""
        return self.stages[0][0] if self.config["directions"] else None

    def features(self, y: Tensor) -> list[Tensor | None]:
        return [F.one_hot(y.long(), self.classes).float()] * len(self.stages)

    def log_probs(self, x: Tensor) -> Tensor:
        """``log p(x | c)`` for every class, ``(n, classes)``: by Bayes' rule the largest is the most probable class."""
        each = [self(x, torch.full((len(x),), c, device=x.device)) for c in range(self.classes)]
        return torch.stack(each, dim=1)


CONDITIONING = ("joint", "fixed", "none")
"""How the conditioning network is trained: with the flow, before it and then no more, or there is none."""


BLOCKS, WIDTHS, FEATURES = (2, 4, 4, 4, 4), (16, 32, 64, 80, 192), (16, 32, 64, 80, 128)
"""Of 64 x 64 colours; smaller ones, which can be halved less often, have the first and, of the flow, the last."""


class ColourFlow(ConditionalFlow):
    """The colours ``(n, 2, s, s)`` of pictures ``y`` ``(n, 1, s, s)``, both standardised (:mod:`.lab`).

    ``blocks`` conditional couplings at each resolution, the last number fully connected; ``widths`` of their networks.
    By default pictures are halved down to 4 to 7 pixels.
    A resolution ends with a downsampling, a Haar transform behind the last one and else 2 x 2 pixels to channels, and
    two unconditional 1 x 1 couplings; from the second on half of the channels leave, of the Haar transform's those that
    are no averages. The conditions are features of ``y``, those of a :class:`~.condition.ConditionNetwork` with
    ``features`` channels at each resolution, or with ``conditioning`` "none" Haar transforms of ``y`` itself.

    Raises:
        ValueError: a side that cannot be halved so often, or numbers below one.
    """

    def __init__(
        self,
        side: int = 64,
        blocks: Sequence[int] = (),
        widths: Sequence[int] = (),
        features: Sequence[int] = (),
        clamp: float = 1.5,
        noise: float = 0.05,
        conditioning: str = "joint",
    ):
        super().__init__((2, side, side))
        levels = len(blocks or widths or features) - 1
        if levels < 0:
            levels = next(n for n in range(5) if n == 4 or side >> n < 8 or (side >> n) % 2)
        blocks = blocks or (*BLOCKS[:levels], BLOCKS[-1])
        widths = widths or (*WIDTHS[:levels], WIDTHS[-1])
        features = features or FEATURES[: levels + 1]
        if not levels == len(widths) - 1 == len(features) - 1 >= 1 or min(*blocks, *widths, *features) < 1:
            raise ValueError("blocks, widths and features need a number above zero for each resolution, at least two")
        if side % 2**levels:
            raise ValueError(f"{side} pixels cannot be halved {levels} times")
        if conditioning not in CONDITIONING:
            raise ValueError(f"no conditioning is called {conditioning!r}")
        self.config = {"side": side, "blocks": list(blocks), "widths": list(widths)}
        self.config |= {"features": list(features), "clamp": clamp, "noise": noise, "conditioning": conditioning}
        self.noise, self.conditioning = noise, conditioning
        self.condition = None if conditioning == "none" else ConditionNetwork(features, side, widths[-1])
        channels, haar = 2, Haar()
        for level in range(levels):
            sees = 4**level if self.condition is None else features[level]
            layers = self._resolution(channels, blocks[level], widths[level], sees, clamp)
            last, side = level == levels - 1, side // 2
            channels *= 4
            layers += [haar if last else Squeeze()]
            for _ in range(2):
                unconditional = convolutional(2 * widths[level], 1, 0.01)
                layers += [Rotation(channels), Coupling(channels, 0, unconditional, clamp)]
            kept = channels // 4 if last else channels // 2 if level else channels
            self._add(layers, (kept, side, side), channels - kept)
            channels = kept
        flat = channels * side**2
        sees, top = 0 if self.condition is None else widths[-1], dense(widths[-1], 2)
        steps = ((Permutation(flat), Coupling(flat, sees, top, clamp)) for _ in range(blocks[-1]))
        self._add([layer for step in steps for layer in step], (flat,))

    @staticmethod
    def _resolution(channels: int, blocks: int, width: int, sees: int, clamp: float) -> list[nn.Module]:
        """The conditional couplings of one resolution, each with a head of its own on what it ``sees``."""
        layers: list[nn.Module] = []
        for _ in range(blocks):
            head = nn.Sequential(nn.Conv2d(sees, width, 1), nn.GroupNorm(1, width))
            layers += [Coupling(channels, width, convolutional(width), clamp, head), Rotation(channels)]
        return layers

    def features(self, y: Tensor) -> list[Tensor | None]:
        if self.condition is not None:
            return self.condition(y)
        haar, seen = Haar().to(y.device), [y.float()]
        for _ in range(len(self.stages) - 2):
            seen.append(haar(seen[-1])[0])
        return [*seen, None]
