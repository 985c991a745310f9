"""What a Glow is trained for and judged by: likelihood, error of its score, and how well it can be inverted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from basis_cli.api import bits_per_dim

from .gaussians import DATA_STD
from .network import DEQUANTIZATION, Glow

SIGMAS = (0.008, 1.4)  # what a conditional model learns: a margin around the paper's 0.01 ... 1
CLEAN = 0.1  # and the share of pictures that it sees without noise


def noise_levels(n: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """``n`` levels for a conditional model, ``(n,)``: stratified, a share of zeros, the rest log-uniform."""
    place = (torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)) / n
    low, high = map(math.log, SIGMAS)
    sigma = torch.exp(low + (high - low) * (place - CLEAN) / (1 - CLEAN))
    return torch.where(place < CLEAN, 0.0, sigma)


def noisy(x: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """``x + sigma z``; at ``sigma = 0`` dequantized: uniform noise spreads each 8-bit intensity over its interval."""
    s = sigma[:, None, None, None]
    z = torch.randn(x.shape, generator=generator, device=x.device)
    u = torch.rand(x.shape, generator=generator, device=x.device) - 0.5
    return x + torch.where(s > 0, s * z, DEQUANTIZATION * u)


def bits(network: nn.Module, x: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """Bits/dim of pictures ``x`` at noise level ``sigma`` ``(n,)``, under the network's density of that level."""
    return bits_per_dim(network(noisy(x, sigma, generator), sigma), x[0].numel())


def bits_and_score_error(
    network: nn.Module, x: Tensor, sigma: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """:func:`bits`, and the error of the score that they belong to, both for each picture ``(n,)``.

    The error is that of denoising score matching, ``(s^2 + std^2) / std^2 (z + s score(x + s z))^2`` a pixel: one at
    every level for a network that knows the pictures' variance and nothing else. At ``sigma = 0`` there is none.
    """
    training = torch.is_grad_enabled()
    with torch.enable_grad():
        y = noisy(x, sigma, generator).requires_grad_()
        log_prob = network(y, sigma)
        (score,) = torch.autograd.grad(log_prob.sum(), y, create_graph=training)
    s = sigma[:, None, None, None]
    z = (y - x).detach() / torch.where(s > 0, s, 1.0)
    error = torch.where(s > 0, (s**2 + DATA_STD**2) / DATA_STD**2 * (z + s * score) ** 2, 0.0)
    return bits_per_dim(log_prob, x[0].numel()), error.flatten(1).mean(1)


@torch.no_grad()
def measured(network: Glow, pictures: Tensor, sigmas: Sequence[float]) -> dict[str, float]:
    """Mean bits/dim of ``pictures`` at each level, and the mean error of the score; with the same noise every time."""
    found = {}
    for sigma in sigmas:
        generator = torch.Generator(pictures.device).manual_seed(0)
        parts = pictures.split(100)
        levels = (torch.full((len(part),), sigma, device=part.device) for part in parts)
        values = [
            torch.stack(bits_and_score_error(network, part, level, generator))
            for part, level in zip(parts, levels, strict=True)
        ]
        found[f"bits_per_dim_{sigma:.6g}"], error = torch.cat(values, dim=1).mean(1).tolist()
        if sigma:
            found[f"score_error_{sigma:.6g}"] = error
    return found


@torch.no_grad()
def inverse_error(network: Glow, pictures: Tensor, sigma: float) -> float:
    """How far ``inverse(encode(x))`` is from ``x`` at most, over noisy ``pictures``; infinite if not a number."""
    level = torch.full((len(pictures),), sigma, device=pictures.device)
    x = noisy(pictures, level, torch.Generator(pictures.device).manual_seed(0))
    error = (network.inverse(network.encode(x, level)[0], level) - x).abs().max()
    return float(error.nan_to_num(math.inf))
