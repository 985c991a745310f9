"""Conditional flows as direct models: of pictures of a class, and of the colours of gray pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from basis_glow.gaussians import full_precision
from torch import Tensor

from basis_cli.api import PosteriorSpec, WeightsError, samplers

from . import lab
from .files import read
from .network import ClassFlow, ColourFlow, ConditionalFlow


def alone(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``function`` of one row after the other: rounding goes with how many there are, and in which place."""
    with full_precision(inputs[0]):
        return torch.cat([function(*row) for row in zip(*(each.split(1) for each in inputs), strict=True)])


def codes(network: ConditionalFlow, seeds: Sequence[int], temperature: float, device: torch.device) -> Tensor:
    """White noise ``(n, d)`` times ``temperature``, each row from its own seed."""
    return temperature * samplers.PerImageNoise(seeds, device).normal((1, len(seeds), network.size))[0]


class Digits:
    """Pictures of the class ``y`` ``(n,)``, each in one pass.

    What the flow models has noise; what is given is the mean of the pictures without it, ``x + s^2 grad log p(x | y)``
    (Tweedie).
    """

    dtype = "float32"

    def __init__(self, network: ClassFlow):
        self.network = network.eval().requires_grad_(False)
        self.shape, self.classes = network.shape, network.classes

    def sample(self, y: Tensor, seeds: Sequence[int], temperature: float = 1.0) -> Tensor:
        """A picture ``(n, c, h, w)`` of each class; ``temperature`` scales the standard deviation of the codes."""
        return self.decode(codes(self.network, seeds, temperature, y.device), y)

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """``log p(x | y)`` in nats, ``(n,)``."""
        return alone(self.network, x, y)

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """The code ``(n, d)`` of ``x`` as one of class ``y``."""
        return alone(lambda x, y: self.network.encode(x, y)[0], x, y)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """The pictures ``(n, c, h, w)`` in [0, 1] of codes ``(n, d)``, without the noise."""
        return alone(self._denoised, z, y).clamp(0, 1)

    def _denoised(self, z: Tensor, y: Tensor) -> Tensor:
        x = self.network.decode(z, y)
        with torch.inference_mode(False), torch.enable_grad():
            noisy, labels = x.clone().requires_grad_(), y.clone()
            (score,) = torch.autograd.grad(self.network(noisy, labels).sum(), noisy)
        return x + self.network.noise**2 * score


class Colours:
    """Coloured pictures ``(n, 3, h, w)`` of gray ones ``y`` ``(n, 1, h, w)``, of any ``size`` ``(h, w)``.

    ``y`` is taken for the gray that it shows: its lightness is kept. Colours are drawn at the network's size, whatever
    the proportions of ``y``, and brought up along the edges of ``y``.
    """

    dtype = "float32"

    def __init__(self, network: ColourFlow, size: tuple[int, int] | None = None):
        self.network, self.side = network.eval().requires_grad_(False), network.shape[1]
        self.shape = (3, *(size or network.shape[1:]))

    def sized(self, size: tuple[int, int]) -> Colours:
        """The same for pictures of ``(h, w)``."""
        return Colours(self.network, size)

    def sample(self, y: Tensor, seeds: Sequence[int], temperature: float = 1.0) -> Tensor:
        """``y`` in colour; ``temperature`` scales the standard deviation of the codes."""
        lightness = lab.lightness_of(y)
        small = lab.shrunk(lightness, self.side)
        colours = alone(self.network.decode, codes(self.network, seeds, temperature, y.device), small)
        if small is not lightness:
            each = zip(colours.split(1), small.split(1), lightness.split(1), strict=True)
            colours = torch.cat([lab.brought_up(*one) for one in each])
        return lab.to_rgb(lightness, colours)

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """The log-density of the standardised colours at the network's size, in nats, ``(n,)``."""
        colours = lab.shrunk(lab.to_lab(x)[1], self.side)
        return alone(self.network, colours, lab.shrunk(lab.lightness_of(y), self.side))


def load(spec: PosteriorSpec, weights: Path | None, device: torch.device) -> Digits | Colours:
    """The model that ``spec`` names, on ``device``.

    Raises:
        WeightsError: no weights, unreadable, or made for another task or shape.
    """
    if weights is None:
        command = "cinn" if spec.task == "sample" else "cinn-colour"
        hint = f"give them with --weights; basis train {command} makes them"
        raise WeightsError(f"{spec.name} has no weights of its own", hint)
    network = read(weights).to(device)
    model = Digits(network) if isinstance(network, ClassFlow) else Colours(network)  # type: ignore[arg-type]
    made_for = "sample" if isinstance(model, Digits) else "colorize"
    if spec.task != made_for or model.shape != tuple(spec.shape):
        raise WeightsError(f"{weights} is for `basis {made_for}`, pictures of shape {model.shape}: not {spec.name}")
    return model
