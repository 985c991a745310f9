"""The two-Gaussian experiments of the NCSN reproduction (section 4, Figures 2, 3 and 11)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from basis_ncsn.training import sliced_objective
from basis_toy.prior import GaussianMixture
from torch import Tensor, nn

from basis_cli.api import NotFiniteError, operators, samplers

from . import Report, Row, Setup
from .figures import OURS, PUBLISHED

WIDTH = 16.0
"""The plane [-8, 8]^2 is drawn on as [0, 1]^2, so that samplers begin where the papers' do: uniformly on all of it."""
WORKING = samplers.geometric(10, 20.0, math.exp(0.1))
"""Of the authors' code."""
PRINTED = samplers.geometric(10, 10.0, 0.1)
"""Of their paper."""


def two_gaussians() -> GaussianMixture:
    """``0.2 N((-5, -5), I) + 0.8 N((5, 5), I)`` as pictures of ``(1, 1, 2)``, in the coordinates of the plane."""
    means = torch.tensor([[-5.0, -5.0], [5.0, 5.0]])
    return GaussianMixture(torch.tensor([0.2, 0.8]), means, torch.eye(2).expand(2, 2, 2), (1, 1, 2))


def _in_unit_square(mixture: GaussianMixture) -> Any:
    return GaussianMixture(mixture.weights, mixture.means / WIDTH + 0.5, mixture.covariances / WIDTH**2, mixture.shape)


def _draw(mixture: GaussianMixture, count: int, sigmas: Sequence[float], steps: int, epsilon: float) -> Tensor:
    """Samples ``(count, 2)`` of the plane with ``x <- x + epsilon / 2 score + sqrt(epsilon) z`` at the last level."""
    nothing = operators.Unobserved((1, 1, 2))
    x = samplers.langevin(
        [_in_unit_square(mixture)],
        nothing,
        torch.zeros(count, 0),
        seeds=range(count),
        sigmas=[sigma / WIDTH for sigma in sigmas],
        steps=steps,
        step_size=epsilon / 2 / WIDTH**2,
    )
    return (x[0].flatten(1) - 0.5) * WIDTH


def _estimated(mixture: GaussianMixture, iterations: int, seed: int) -> nn.Module:
    """Three layers of 128 softplus units, trained by sliced score matching on samples (batch 128, Adam 0.001)."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    layers = [nn.Linear(2, 128), nn.Softplus(), nn.Linear(128, 128), nn.Softplus(), nn.Linear(128, 2)]
    network = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(iterations):
        x = mixture.sample(128, generator).flatten(1).float()
        optimizer.zero_grad()
        sliced_objective(network, x, generator).mean().backward()
        optimizer.step()
    return network


RUNS = (
    ("Langevin, T = 1000", "wrong weights", [1e-3], 1000, 0.1),
    ("annealed, sigma 20 to e^0.1", "0.8", WORKING, 100, 0.1),
    ("annealed, sigma 10 to 0.1", "overflow", PRINTED, 100, 0.1),
    ("annealed, sigma 10 to 0.1, epsilon 0.01", "not satisfying", PRINTED, 100, 0.01),
    ("annealed, sigma 10 to 0.1, epsilon 0.001", "not satisfying", PRINTED, 100, 0.001),
    ("annealed, sigma 10 to 0.1, epsilon 0.0001", "not satisfying", PRINTED, 100, 1e-4),
)
"""Langevin dynamics with and without annealing: what, the published share, noise levels, steps, epsilon."""


def gmm(setup: Setup, *, samples: int, iterations: int) -> Report:
    """True and estimated scores, and samples by Langevin dynamics with and without annealing, from true scores."""
    mixture = two_gaussians()
    setup.say(f"{iterations} iterations of sliced score matching")
    network = _estimated(mixture, iterations, setup.seed)
    line = torch.linspace(-8, 8, 33)
    grid = torch.cartesian_prod(line, line)
    true = mixture.score(grid.view(-1, 1, 1, 2)).flatten(1)
    with torch.no_grad():
        estimated = network(grid)
    error = (estimated - true).norm(dim=1)
    near = (grid[:, None] - mixture.means.float()).norm(dim=2).min(1).values < 2
    low = (grid[:, None] - mixture.means.float()).norm(dim=2).min(1).values > 5
    rows = [
        Row("mean error of the score within 2 of a mode", "accurate", float(error[near].mean())),
        Row("mean error of the score over 5 from both", "fails", float(error[low].mean())),
    ]

    drawn: dict[str, Tensor] = {
        "samples": mixture.sample(samples, torch.Generator().manual_seed(setup.seed)).flatten(1)
    }
    rows.append(_row("independent samples", "0.8", drawn["samples"], "spread 1"))
    for what, published, sigmas, steps, epsilon in RUNS:
        setup.say(what)
        last = f"L = {len(sigmas)}, T = {steps}, epsilon {epsilon:g}, spread {math.sqrt(1 + sigmas[-1] ** 2):.2f}"
        try:
            drawn[what] = _draw(mixture, samples, sigmas, steps, epsilon)
        except NotFiniteError:
            rows.append(Row(f"share at the larger mode, {what}", published, "overflow", None, last))
            continue
        rows.append(_row(what, published, drawn[what], last))

    def draw(figure: Any) -> None:
        panels = figure.subplots(2, 4)
        size = true.norm(dim=1).max()
        for axes, field, title in ((panels[0, 0], true, "true scores"), (panels[0, 1], estimated, "estimated scores")):
            at, arrows = (each.view(33, 33, 2)[::3, ::3].reshape(-1, 2).T for each in (grid, field / size))
            axes.quiver(*at.numpy(), *arrows.numpy(), color=OURS, width=0.006)
            axes.set_title(title, fontsize=8)
        panels[0, 2].imshow(
            error.view(33, 33).T.numpy(), origin="lower", extent=(-8, 8, -8, 8), cmap="magma", vmin=0, vmax=float(size)
        )
        panels[0, 2].set_title("error of the estimate", fontsize=8)
        kept = [name for name in drawn if "epsilon" not in name or name.endswith(" 0.01")]
        for axes, name in zip([panels[0, 3], *panels[1]], kept, strict=False):
            axes.plot(*drawn[name].T.numpy(), ".", color=PUBLISHED if name == "samples" else OURS, markersize=1)
            axes.set_title(name, fontsize=8)
        for axes in panels.flat:
            axes.set(xlim=(-8, 8), ylim=(-8, 8), xticks=[], yticks=[], aspect="equal")
        for axes in panels.flat[3 + len(kept) :]:
            axes.set_visible(False)

    why = (
        "Plain Langevin dynamics keeps the weights of where it began, about one half. The noise levels that the "
        "original paper prints overflow, as the reproduction found: the first steps, epsilon / 2 (10 / 0.1)^2 long, "
        "overshoot a variance of 101 fivefold. It found no smaller epsilon that works there; by the share and the "
        "spread (the standard deviation about the larger mode), a tenth and a hundredth of it do."
    )
    return Report(rows, draw, why, size=(9.0, 5.0))


def _row(what: str, published: str, x: Tensor, settings: str) -> Row:
    larger = x.sum(1) > 0
    share = float(larger.double().mean())
    spread = float((x[larger].double() - 5).square().mean().sqrt()) if larger.any() else math.nan
    error = (share * (1 - share) / len(x)) ** 0.5
    return Row(f"share at the larger mode, {what}", published, share, error, f"{settings}; measured {spread:.2f}")
