"""Muon beside Adam, and how the learning rate falls."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..compute import multiplies_bfloat16
from ..errors import UsageError

if TYPE_CHECKING:
    from .settings import Settings


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalized by Newton-Schulz iterations (Jordan et al. 2024), for matrices and convolutions.

    On this project's MNIST network it reaches Adam's loss in about two thirds of the steps (see the docs).
    """

    def __init__(self, params: Any, lr: float = 0.02, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = _orthogonalized(p.grad.lerp(momentum, group["momentum"]).flatten(1))
                p.add_(update.view_as(p), alpha=-group["lr"] * max(1.0, update.shape[0] / update.shape[1]) ** 0.5)


def _orthogonalized(matrix: Tensor) -> Tensor:
    """``U V^T`` of the singular value decomposition ``U S V^T``, approximately, by five quintic iterations."""
    x = matrix.to(torch.bfloat16 if multiplies_bfloat16(matrix.device) else torch.float32)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


def optimizers_of(network: nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices (both sides at least 32), Adam for the rest; or Adam for everything."""
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}

    def hidden(p: Tensor) -> bool:
        return settings.optimizer == "muon" and p.ndim == 4 and min(p.shape[0], p[0].numel()) >= 32

    matrices = [p for p in named.values() if hidden(p)]
    others = [p for p in named.values() if not hidden(p)]
    optimizers: list[torch.optim.Optimizer] = []
    if others:
        optimizers.append(torch.optim.Adam(others, settings.learning_rate, betas=(0.9, 0.99), fused=True))
    if matrices:
        optimizers.append(Muon(matrices, 20 * settings.learning_rate))
    return optimizers


@torch.no_grad()
def shorten(parameters: Iterable[Tensor], most: float) -> None:
    """Scale the gradients of ``parameters`` so that their norm together is at most ``most``; if it is not a number, to
    nothing: flows explode at single pictures, which would spoil an optimizer's memory for many steps."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    scale = torch.where(norm.isfinite(), (most / norm).clamp(max=1.0), 0.0)
    for gradient in gradients:
        gradient.nan_to_num_(0.0, 0.0, 0.0).mul_(scale)


def learning_rate_factor(settings: Settings, step: int, progress: float) -> float:
    """The share of the full learning rate at ``step`` (0-based) when ``progress`` in [0, 1] of the run is done: linear
    warm-up, then the chosen decay."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup))
    if settings.decay == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if settings.decay == "inverse-square-root":  # Karras et al. 2024, eq. 67, flat for the first tenth
        return warm / math.sqrt(max(1.0, progress / 0.1))
    if settings.decay == "constant":
        return warm
    raise UsageError(f"no decay is called {settings.decay!r}", "cosine, inverse-square-root or constant")
