"""The experiments of the NCSN reproduction that train a network: Figures 1, 4, 9 and 10."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basis_ncsn.network import NETWORKS
from basis_ncsn.prior import ScorePrior
from basis_ncsn.refinenet import ladder
from basis_ncsn.training import denoising_error, loss_of, sliced_objective
from torch import Tensor, nn

from basis_cli.api import Dataset, training

from . import Report, Row, Setup
from .figures import OURS, PUBLISHED, sheet
from .samples import STEP_SIZE, Judge, drawn

SMALL = {"widths": (16, 32), "blocks": 1, "mean": 0.13, "std": 0.31}
"""A U-Net that learns digits, roughly, in a minute."""


def _fitted(
    setup: Setup,
    network: nn.Module,
    data: Dataset,
    *,
    iterations: int,
    batch: int,
    loss: training.Loss | None = None,
    paper: bool = True,
) -> ScorePrior:
    """``network`` after some training: as the paper does (Adam 0.001, float32), or as this project does by default."""
    settings = training.Settings(
        steps=iterations,
        batch=batch,
        optimizer="adam" if paper else "muon",
        decay="constant" if paper else "cosine",
        warmup=0 if paper else 50,
        seed=setup.seed,
        bf16=not paper,
        flip=data.shape[0] == 3,
        save_every=max(iterations, 500),
    )
    with tempfile.TemporaryDirectory() as folder:
        average = training.fit(
            network,
            loss or loss_of(network),
            data.images,
            settings,
            Path(folder),
            device=setup.device,
            callback=lambda step, metrics: setup.say(f"step {step} of {iterations}, loss {metrics['loss']:.3g}"),
        )
    return ScorePrior(average, data.shape, getattr(network, "sigmas", None))


def _network(setup: Setup, size: str, schedule: str, sigmas: tuple[float, ...]) -> nn.Module:
    """The ``small`` network, or the ``paper``'s RefineNet, for MNIST at those noise levels."""
    torch.manual_seed(setup.seed)
    if size == "small":
        return NETWORKS["unet"](**SMALL, sigmas=sigmas)
    ends = {"sigma_begin": sigmas[0], "sigma_end": sigmas[-1]}
    return NETWORKS["refinenet"](levels=len(sigmas), schedule=schedule, **ends)


def toy_manifold(setup: Setup, *, iterations: int, batch: int, filters: int) -> Report:
    """Loss curves of the toy ResNet under sliced score matching, with and without noise of variance 1e-4."""
    data = setup.data("cifar10", "train")
    curves: dict[str, list[float]] = {}
    for what, std in (("CIFAR-10", 0.0), ("with N(0, 0.0001) noise", 0.01)):
        setup.say(what)
        torch.manual_seed(setup.seed)
        network = NETWORKS["resnet"](channels=3, filters=filters, levels=1)
        losses = curves[what] = []

        def loss(
            model: nn.Module, x: Tensor, generator: torch.Generator, std: float = std, losses: list[float] = losses
        ) -> Tensor:
            noisy = x + std * torch.randn(x.shape, generator=generator, device=x.device)
            level = torch.zeros(len(x), dtype=torch.int64, device=x.device)
            value = sliced_objective(partial(model, level=level), noisy, generator).mean()
            losses.append(float(value.detach()))
            return value

        _fitted(setup, network, data, iterations=iterations, batch=batch, loss=loss)
    rows = []
    for (what, losses), published in zip(curves.items(), ("does not converge", "converges"), strict=True):
        tail = np.array(losses[-max(2, len(losses) // 4) :])
        settings = f"{iterations} iterations, standard deviation {tail.std():.3g}"
        rows.append(Row(f"loss of the last quarter, {what}", published, float(tail.mean()), None, settings))

    def draw(figure: Any) -> None:
        for axes, (what, losses), color in zip(figure.subplots(1, 2), curves.items(), (PUBLISHED, OURS), strict=True):
            axes.plot(losses, color=color, linewidth=0.8)
            axes.set_yscale("symlog", linthresh=1000, linscale=0.5)
            axes.set_yticks([1e3, 0, *(-(10.0**n) for n in range(3, 8))])
            axes.set_ylim(min(*losses, -1e3) * 2, max(losses) * 2)
            axes.set(xlabel="iteration", title=what)
        figure.supylabel("sliced score matching loss", fontsize=9)

    why = (
        "The loss is unbounded below on pictures of whole numbers and falls with every detail that is learned; with "
        "noise it cannot fall below -d / (2 sigma^2) = -1.5e7. The published curves have no numbers; by them the "
        "model converges only with noise, which a quick run is too short to decide. Normalization is by picture, not "
        "by batch."
    )
    return Report(rows, draw, why, size=(8.0, 3.2))


def baseline(setup: Setup, *, iterations: int, batch: int, network: str, samples: int) -> Report:
    """A network for the lowest noise level only, sampled by 1,000 steps at it, beside one for ten levels."""
    data, judge = setup.data("mnist", "train"), Judge(setup)
    rows, shown = [], {}
    for what, levels, steps, published in (
        ("one level, T = 1000", (0.01,), 1000, "fails"),
        ("ten levels, T = 100", ladder("geometric", 10), 100, "digits"),
    ):
        setup.say(what)
        prior = _fitted(
            setup,
            _network(setup, network, "geometric", levels),
            data,
            iterations=iterations,
            batch=batch,
            paper=network == "paper",
        )
        shown[what], _ = drawn(setup, prior, samples, steps=steps)
        rows.append(_judged(judge, what, published, shown[what]))
    why = (
        "Ours: estimated log-likelihood in nats less that of a test picture. One level never sees what lies between "
        "digits, where sampling begins. A quick run trains a small U-Net for a minute instead of a RefineNet."
    )
    return Report(rows, _rows_of_samples(shown), why, size=(6.5, 2.6))


def schedule(setup: Setup, *, iterations: int, batch: int, network: str, samples: int) -> Report:
    """Networks trained and sampled at ten geometric and at ten linear noise levels."""
    data, judge = setup.data("mnist", "train"), Judge(setup)
    rows, shown = [], {}
    finished = setup.prior("ncsn-mnist")
    for name, published in (("geometric", "smooth"), ("linear", "more detail, more noise")):
        levels = ladder(name, 10)
        setup.say(f"{name} noise levels")
        trained = _network(setup, network, name, levels)
        prior = _fitted(setup, trained, data, iterations=iterations, batch=batch, paper=network == "paper")
        for what, model in ((f"{name}, trained here", prior), (f"{name}, ncsn-mnist", finished)):
            shown[what], _ = drawn(setup, model, samples, levels=levels)
            rows.append(_judged(judge, what, published if model is prior else None, shown[what]))
    why = (
        "Ours: estimated log-likelihood in nats less that of a test picture. Published are CIFAR-10 samples; this is "
        "MNIST, and a quick run trains a small U-Net. ncsn-mnist takes any level, so it is sampled at both ladders."
    )
    return Report(rows, _rows_of_samples(shown), why, size=(6.5, 4.4))


def architecture(setup: Setup, *, iterations: int, batch: int, filters: int, samples: int, steps: int) -> Report:
    """The RefineNet, and the toy ResNet with conditional normalization and dilations, trained alike."""
    data, judge = setup.data("mnist", "train"), Judge(setup)
    test = setup.data("mnist")[:100]
    rows, shown = [], {}
    for what, backbone, published in (
        ("RefineNet", "refinenet", "samples"),
        ("ResNet", "resnet", "nothing meaningful"),
    ):
        setup.say(what)
        torch.manual_seed(setup.seed)
        network = NETWORKS[backbone](filters=filters)
        size = sum(p.numel() for p in network.parameters())
        prior = _fitted(setup, network, data, iterations=iterations, batch=batch)
        shown[what], _ = drawn(setup, prior, samples, steps=steps, step_size=STEP_SIZE * 100 / steps)
        rows.append(_judged(judge, what, published, shown[what]))
        held_out = denoising_error(prior, test.to(next(network.parameters()).device), prior.sigmas[3:6:2])  # type: ignore
        for name, error in held_out.items():
            sigma = float(name.rpartition("_")[2])
            settings = f"{size:,} parameters"
            rows.append(Row(f"held-out denoising error at sigma {sigma:.2f}, {what}", None, error, None, settings))
    why = (
        "Ours: estimated log-likelihood in nats less that of a test picture. Published are CIFAR-10 samples after "
        "200,000 iterations; a quick run is far too short for either network to draw digits, so look at the denoising"
        " errors."
    )
    return Report(rows, _rows_of_samples(shown), why, size=(6.0, 2.6))


def _judged(judge: Judge, what: str, published: str | None, x: Tensor) -> Row:
    mean, error = judge(x)
    return Row(what, published, mean, error, f"mean of the pixels {float(x.clamp(0, 1).mean()):.2f} (test: 0.13)")


def _rows_of_samples(shown: dict[str, Tensor]) -> Any:
    return lambda figure: sheet(figure.subplots(), torch.stack(list(shown.values())), rows=list(shown))
