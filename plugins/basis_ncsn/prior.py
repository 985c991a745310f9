"""A score network as a prior, and the safetensors file it is kept in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from basis_cli.api import PriorSpec, WeightsError, checkpoint, operators

from . import given
from .network import NETWORKS


class ScorePrior:
    """A network with ``score(x, sigma)`` as a prior; see :class:`basis_cli.api.Prior`."""

    def __init__(self, network: nn.Module, shape: tuple[int, int, int], sigmas: tuple[float, ...] | None = None):
        self.network, self.shape, self.sigmas = network.eval().requires_grad_(False), shape, sigmas
        self._compiled = False

    def at(self, sigma: float) -> ScoreLevel:
        return ScoreLevel(self.network, sigma)

    def compile(self) -> None:
        """``torch.compile`` the network in place; compiling itself happens with the first score."""
        if not self._compiled:
            self.network.compile()
            self._compiled = True

    def given(self, operator: operators.LinearOperator) -> ScorePrior | None:
        """See :class:`basis_cli.api.Conditional`: gray pictures, and masks, if the network has learned them."""
        kind = given.kind(operator, self.shape)
        if kind not in getattr(self.network, "given", ()):
            return None
        return GivenPrior(self.network, self.shape, operator, given.KINDS[str(kind)].highest)


class AnySizePrior(ScorePrior):
    """The prior of a network that takes pictures of any size; see :class:`basis_cli.api.AnySize`."""

    def sized(self, size: tuple[int, int]) -> AnySizePrior:
        return AnySizePrior(self.network, (self.shape[0], *size), self.sigmas)


class GivenPrior(AnySizePrior):
    """The prior of pictures of which ``operator`` observes a part, which has no noise."""

    def __init__(
        self, network: nn.Module, shape: tuple[int, int, int], operator: operators.LinearOperator, sigma_max: float
    ):
        super().__init__(network, shape)
        self.operator, self.sigma_max = operator, sigma_max

    def sized(self, size: tuple[int, int]) -> GivenPrior:
        return GivenPrior(self.network, (self.shape[0], *size), self.operator, self.sigma_max)

    def at(self, sigma: float) -> ScoreLevel:
        return ScoreLevel(self.network, sigma, lambda x: x - self.operator.pinv(self.operator(x[None]))[0])


ALONE = 2**13
"""Pixels from which on a picture goes through the network alone on a CPU, where more together are no faster."""


class ScoreLevel:
    """The network at one noise level; a picture's score does not depend on how many are asked for with it."""

    def __init__(self, network: Any, sigma: float, unknown: given.Projection | None = None):
        self.network, self.sigma, self.more = network, sigma, (unknown,) if unknown else ()

    def score(self, x: Tensor) -> Tensor:
        n = len(x)
        if alone(x):
            if n > 1:
                return torch.cat([self.score(picture) for picture in x.split(1)])
        elif n == 1:  # on CPUs oneDNN has another convolution for a single picture, which rounds differently
            x = x.expand(2, -1, -1, -1)
        sigma = torch.full((1,), self.sigma, device=x.device)  # one row: a matrix product's rounding varies with rows
        return self.network.score(x.contiguous(memory_format=torch.channels_last), sigma, *self.more)[:n]


def alone(x: Tensor) -> bool:
    """Whether each of ``x`` ``(n, c, h, w)`` goes through the network by itself."""
    return x.device.type == "cpu" and x[0, 0].numel() >= ALONE


def save(
    path: Path,
    network: nn.Module,
    backbone: str,
    config: dict[str, Any],
    shape: tuple[int, int, int],
    notes: dict[str, str],
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write ``network``'s parameters and what is needed to build it again; ``notes`` are kept for the reader.

    Raises:
        NotFiniteError: a parameter is NaN or infinite.
        BasisError: the file cannot be written; what stood there before is kept.
    """
    tensors = {name: tensor.to(dtype) for name, tensor in network.state_dict().items()}
    about = {"format": "basis-ncsn", "backbone": backbone, "config": json.dumps(config), "shape": json.dumps(shape)}
    checkpoint.save(path, tensors, notes | about)


def read(path: Path) -> tuple[nn.Module, tuple[int, int, int]]:
    """The network and picture shape in a file that :func:`save` wrote.

    Raises:
        WeightsError: not such a file, or its tensors do not fit the network it names.
    """
    hint = "convert it: basis weights convert ncsn"
    with checkpoint.opened(path, "basis-ncsn", "a score network", hint) as (tensors, about):
        config = json.loads(about["config"])
        network = NETWORKS[about["backbone"]](**config)
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        c, h, w = json.loads(about["shape"])
        if c != config.get("channels", c):
            raise ValueError(f"pictures of {c} channels, but a network of {config['channels']}")
    return network, (c, h, w)


def load(spec: PriorSpec, weights: Path | None, device: torch.device) -> ScorePrior:
    """The prior that ``spec`` names, on ``device``.

    Raises:
        WeightsError: no weights, unreadable, or made for pictures of another shape.
    """
    if weights is None:
        raise WeightsError(f"{spec.name} needs weights", "give them with --weights")
    network, shape = read(weights)
    if spec.shape and shape != tuple(spec.shape):
        raise WeightsError(f"{weights} is for pictures of shape {shape}, but {spec.name} models {tuple(spec.shape)}")
    network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kind = AnySizePrior if getattr(network, "any_size", False) else ScorePrior
    return kind(network, shape, getattr(network, "sigmas", None))


def untrained(spec: PriorSpec, weights: Path | None, device: torch.device) -> ScorePrior:
    """The network that the paper ran on pictures of this shape, with random weights: what it computes is noise."""
    if weights is not None:
        raise WeightsError(f"{spec.name} takes no weights: its own are random", "--prior ncsn")
    assert spec.shape, "the paper's network is for pictures of a known shape"
    channels = spec.shape[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = NETWORKS["refinenet"](channels=channels, filters=64 if channels == 1 else 128)
    network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ScorePrior(network, spec.shape, network.sigmas)
