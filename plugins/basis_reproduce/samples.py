"""What the NCSN reproduction draws from a trained prior (sections 5 and 6.1)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from basis_cli.api import BasisError, Prior, operators, posterior, samplers

from . import Report, Row, Setup
from .figures import sheet

STEP_SIZE = 1e-5
"""``--step-size`` for the epsilon = 2e-5 of Song & Ermon, whose steps are half as long as those of Algorithm 1."""


def drawn(
    setup: Setup,
    prior: Prior,
    count: int,
    *,
    steps: int = 100,
    step_size: float = STEP_SIZE,
    levels: Sequence[float] | None = None,
) -> tuple[Tensor, dict[float, Tensor]]:
    """``count`` samples ``(count, c, h, w)``, not clipped, and the state at the end of every noise level.

    Annealed Langevin dynamics at ``levels``, by default the prior's own, else the paper's ten.
    """
    sigmas = levels or prior.sigmas or samplers.PAPER_SIGMAS
    ends: dict[float, Tensor] = {}

    def keep(progress: samplers.Progress) -> None:
        if (progress.step + 1) % steps == 0:
            setup.say(f"{count} samples, noise {progress.sigma:.3f}")
            ends[progress.sigma] = progress.x[0].cpu().clone()

    device = setup.compute.place
    seeds = [samplers.image_seed(setup.seed, i) for i in range(count)]
    with setup.compute.inference():
        x = samplers.langevin(
            [prior],
            operators.Unobserved(prior.shape),
            torch.zeros(count, 0, device=device),
            seeds=seeds,
            sigmas=sigmas,
            steps=steps,
            step_size=step_size,
            watch=keep,
        )
    return x[0].cpu(), ends


class Judge:
    """How likely pictures are under ``ncsn-mnist``, in nats, compared with MNIST's test pictures.

    :func:`basis_cli.posterior.ranking.log_likelihood` is an estimate up to a constant, which the difference takes away.
    Noise is far below 0; an empty picture is above.
    """

    def __init__(self, setup: Setup):
        self.prior, self.setup = setup.prior("ncsn-mnist"), setup
        test = setup.data("mnist")[:100]
        self.typical = self._likelihood(test).mean()

    def _likelihood(self, x: Tensor) -> Tensor:
        compute = self.setup.compute
        with compute.inference():
            return posterior.ranking.log_likelihood([self.prior], x.clamp(0, 1).to(compute.place)[None]).cpu()

    def __call__(self, x: Tensor) -> tuple[float, float | None]:
        """The mean over pictures ``(n, 1, 28, 28)``, and its standard error."""
        found = self._likelihood(x) - self.typical
        return float(found.mean()), float(found.std() / len(found) ** 0.5) if len(found) > 1 else None


def from_noise(setup: Setup, *, samples: int, steps: int) -> Report:
    """Samples of the prior, and their states at the ten noise levels."""
    prior, judge = setup.prior("ncsn-mnist"), Judge(setup)
    began = time.perf_counter()
    x, ends = drawn(setup, prior, samples, steps=steps)
    seconds = time.perf_counter() - began
    mean, error = judge(x)
    device, threads = setup.compute.place.type, torch.get_num_threads()
    clocked = f"published: a P100; ours: {device}, {threads} threads, beside whatever else runs"
    rows = [
        Row("seconds for 100 samples, MNIST", 112, seconds / samples * 100, None, clocked),
        Row("log-likelihood less a test picture's (nats)", None, mean, error, f"{samples} samples, T = {steps}"),
        Row("inception score, CIFAR-10", "6.5 ± 0.1 (original paper: 8.87)", None, None, "quoted"),
        Row("FID, CIFAR-10", "33.0 (original paper: 25.32)", None, None, "quoted"),
        Row("inception score, CelebA", "3.4 ± 0.04", None, None, "quoted"),
        Row("FID, CelebA", "81.5", None, None, "quoted"),
    ]

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
        side = max(1, min(8, int(samples**0.5)))
        sheet(left, x[: side * side].view(side, side, *x.shape[1:]))
        shown = min(samples, 6)
        sheet(right, torch.stack([y[:shown] for y in ends.values()], 1), columns=[f"{sigma:.2f}" for sigma in ends])

    why = "The prior is ncsn-mnist, not a RefineNet. There is no published number for MNIST but the time."
    return Report(rows, draw, why, size=(8.0, 3.6))


def neighbours(setup: Setup, *, samples: int, steps: int) -> Report:
    """The five nearest training pictures of each sample, by Euclidean distance."""
    prior = setup.prior("ncsn-mnist")
    train, test = (setup.data("mnist", split) for split in ("train", "test"))
    x, _ = drawn(setup, prior, samples, steps=steps)
    setup.say("distances")
    library = train[:].flatten(1)
    distance, nearest = torch.cdist(x.clamp(0, 1).flatten(1), library).topk(5, largest=False)
    fresh = torch.cdist(test[:500].flatten(1), library).min(1).values
    mean, error = float(distance[:, 0].mean()), float(distance[:, 0].std() / samples**0.5)
    settings = f"{samples} samples, {len(library):,} training pictures"
    rows = [
        Row("distance of a sample to the nearest picture", "not memorized", mean, error, settings),
        Row("distance of the closest sample", None, float(distance[:, 0].min()), None, settings),
        Row("distance of a test picture", None, float(fresh.mean()), float(fresh.std() / len(fresh) ** 0.5), "500"),
        Row("distance of the closest test picture", None, float(fresh.min()), None, "500"),
    ]

    def draw(figure: Any) -> None:
        shown = min(samples, 8)
        grid = torch.cat([x[:shown, None], library[nearest[:shown]].view(shown, 5, *x.shape[1:])], dim=1)
        sheet(figure.subplots(), grid, columns=["sample", *(str(i + 1) for i in range(5))])

    why = "On MNIST; published are CIFAR-10 and CelebA too. Samples are about as far from it as unseen digits."
    return Report(rows, draw, why, size=(4.5, 6.0))


def sensitivity(setup: Setup, *, samples: int, most_steps: int) -> Report:
    """Samples with smaller and larger step sizes, fewer and more steps."""
    prior, judge = setup.prior("ncsn-mnist"), Judge(setup)
    rows, shown = [], {}
    for epsilon, steps, published in (
        (2e-5, 100, "digits"),
        (5e-7, 100, "noise only"),
        (5e-6, 100, "robust (original paper)"),
        (5e-5, 100, "robust (original paper)"),
        (4.5e-4, 100, "one color"),
        (2e-5, 10, "mostly noise"),
        (2e-5, most_steps, "smooth, few details"),
    ):
        what = f"epsilon {epsilon:g}, T = {steps}"
        setup.say(what)
        try:
            x, _ = drawn(setup, prior, samples, steps=steps, step_size=epsilon / 2)
        except BasisError:
            rows.append(Row(what, published, "not finite"))
            continue
        shown[what] = x
        mean, error = judge(x)
        outside = float(((x < -0.1) | (x > 1.1)).double().mean())
        settings = f"{outside:.0%} of the values outside [-0.1, 1.1], mean {float(x.clamp(0, 1).mean()):.2f}"
        rows.append(Row(what, published, mean, error, settings))

    def draw(figure: Any) -> None:
        sheet(figure.subplots(), torch.stack(list(shown.values())), rows=list(shown))

    why = (
        "Ours: estimated log-likelihood in nats less that of a test picture. On MNIST; published are CIFAR-10 samples"
        " without the values. Too small a step leaves the first levels' noise, too large a one breaks the strokes up."
    )
    return Report(rows, draw, why, size=(6.0, 5.5))


def inpainting(setup: Setup, *, pictures: int, samples: int, steps: int) -> Report:
    """Several completions of pictures of which the right half, or another part, is unknown."""
    prior, data = setup.prior("ncsn-mnist"), setup.data("mnist")
    truth = data[:pictures]
    h, w = truth.shape[2:]
    masks = {name: torch.ones(h, w) for name in ("right half", "upper half", "middle square")}
    masks["right half"][:, w // 2 :] = 0
    masks["upper half"][: h // 2] = 0
    masks["middle square"][h // 4 : -h // 4, w // 4 : -w // 4] = 0
    rows, grids = [], []
    for name, known in masks.items():
        setup.say(name)
        operator = operators.Mask(known)
        conditional = posterior.Guided([prior], operator, setup.sampling("langevin", step_size=STEP_SIZE, steps=steps))
        y = operator(truth[None])
        seeds = samplers.picture_seeds(setup.seed, y, samples)
        found = posterior.answers(conditional, y, seeds, compute=setup.compute, rank=False)
        x = torch.cat([result.components[0] for _, result in found])  # type: ignore[union-attr]
        psnr = posterior.ordering.psnr(x, truth[:, None])
        unknown = known == 0
        rows += [
            Row(f"PSNR, {name}", "left as future work", float(psnr.mean()), None, f"{pictures} x {samples} samples"),
            Row(f"PSNR, {name}, mean of the samples", None, float(posterior.ordering.psnr(x.mean(1), truth).mean())),
            Row(f"spread of an unknown pixel, {name}", "diverse", float(x.std(1)[..., unknown].mean())),
        ]
        grids.append(torch.cat([operator(truth[None])[:, None], x, truth[:, None]], dim=1))

    def draw(figure: Any) -> None:
        shown = min(pictures, 4)
        columns = ["seen", *(f"sample {i + 1}" for i in range(samples)), "truth"]
        for axes, name, grid in zip(figure.subplots(1, len(grids)), masks, grids, strict=True):
            sheet(axes, grid[:shown], columns=["seen", *("" for _ in columns[1:-1]), "truth"])
            axes.set_xlabel(name, fontsize=9)

    why = "On MNIST's test pictures; published are training pictures of CIFAR-10 and CelebA, and no numbers."
    return Report(rows, draw, why, size=(9.0, 3.2))
