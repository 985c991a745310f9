"""The figures of *Source Separation with Deep Generative Priors* (Jayaram & Thickstun 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from basis_cli.api import Dataset, datasets, likelihood, operators, posterior, protocols, samplers, tasks

from . import STEP_SIZE, Report, Row, Setup
from .figures import OURS, PUBLISHED, sheet


def _mixtures(data: Dataset, count: int) -> tuple[Tensor, Tensor]:
    """Components ``(2, count, c, h, w)`` and their mean."""
    chosen = datasets.mixture_indices(data, 2, count, "class-agnostic", 0)
    truth = data[chosen.T]
    return truth, truth.mean(0)


def figure2(setup: Setup, *, pictures: int) -> Report:
    """``sigma E ||grad log p_sigma(x)||`` at the ten noise levels."""
    found, left_out = setup.priors("ncsn-mnist", "glow-mnist", "ncsn-cifar", "glow-cifar")
    curves, rows = {}, []
    for name, prior in found.items():
        setup.say(name)
        data = setup.data("mnist" if name.endswith("mnist") else "cifar10")
        curves[name] = likelihood.evaluate_gradients(
            data, prior, sigmas=samplers.PAPER_SIGMAS, pictures=pictures, seed=setup.seed, compute=setup.compute
        )
        root = np.prod(prior.shape) ** 0.5
        for level, published in ((curves[name][0], "about 50"), (curves[name][-1], "falls")):
            what = f"{name}: sigma E||score|| at sigma {level['sigma']:g}"
            settings = f"root of the {np.prod(prior.shape)} dimensions: {root:.1f}"
            quoted = published if name.endswith("cifar") else f"{published} (CIFAR-10, root of 3072: 55.4)"
            rows.append(Row(what, quoted, level["scaled_norm"], level["standard_error"], settings))

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for name, curve in curves.items():
            line = axes.plot(
                *zip(*((row["sigma"], row["scaled_norm"]) for row in curve), strict=True), "o-", label=name
            )
            root = np.prod(found[name].shape) ** 0.5
            axes.axhline(root, color=line[0].get_color(), linestyle=":", label=f"root of {np.prod(found[name].shape)}")
        axes.set(
            xscale="log",
            xlabel="sigma",
            ylabel="sigma E||score||",
            ylim=(0, 1.1 * max(np.prod(p.shape) for p in found.values()) ** 0.5),
        )
        axes.invert_xaxis()
        axes.legend(fontsize=8)

    why = (
        "The norm is nearly the root of the number of dimensions where noise is high (equation 11, which prints its "
        "square as 1/sigma^2 without the dimensions) and falls where sigma nears the scale of what the prior knows."
    )
    return Report(rows, draw, why, left_out)


def figure3(setup: Setup, *, pairs: int, steps: int) -> Report:
    """Gradient ascent and Langevin dynamics, each at the lowest noise level only and annealed."""
    data, prior = setup.data("mnist"), setup.prior("ncsn-mnist")
    truth, y = _mixtures(data, pairs)
    results, rows = {}, []
    for what, sampler, levels in (
        ("neither", "ascent", 1),
        ("noise only", "langevin", 1),
        ("annealing only", "ascent", 10),
        ("both (BASIS)", "langevin", 10),
    ):
        setup.say(f"{what}: {pairs} mixtures")
        sampling = setup.sampling(sampler, levels=levels, steps=steps * 10 // levels, step_size=STEP_SIZE)
        found = tasks.separate(y, prior=prior, references=list(truth), sampling=sampling, compute=setup.compute)
        assert found.psnr is not None
        psnr = found.psnr.mean(0)[:, 0]
        results[what] = found.components[:, :, 0]
        published = {"neither": "fails", "annealing only": "sub-optimal", "both (BASIS)": "separates"}.get(what)
        error = float(psnr.std() / len(psnr) ** 0.5) if len(psnr) > 1 else None
        rows.append(Row(f"PSNR, {what}", published, float(psnr.mean()), error, f"{found.evaluations:,.0f} evaluations"))

    def draw(figure: Any) -> None:
        shown = min(pairs, 6)
        grid = torch.stack([torch.cat([x[:, i] for x in (y[None], *results.values(), truth)]) for i in range(shown)])
        columns = ["mixture", *(part for name in results for part in (name, "")), "truth", ""]
        sheet(figure.subplots(), grid, columns=columns)

    why = "The paper shows pictures only; noise without annealing is our addition. As `basis separate` leaves them."
    return Report(rows, draw, why, size=(8.0, 4.5))


def figure5(setup: Setup, *, mixtures: int, samples: int) -> Report:
    """Several posterior samples of each mixture."""
    found, left_out = setup.priors("ncsn-cifar", "ncsn-mnist")
    name = next(iter(found))
    truth, y = _mixtures(setup.data("mnist" if name == "ncsn-mnist" else "cifar10"), mixtures)
    setup.say(f"{name}: {samples} samples of {mixtures} mixtures")
    result = tasks.separate(
        y,
        prior=found[name],
        references=list(truth),
        samples=samples,
        select="all",
        sampling=setup.algorithm1(),
        compute=setup.compute,
    )
    assert result.psnr is not None
    assert result.std is not None
    x = result.components  # (2, n, samples, c, h, w)
    psnr = result.psnr.mean(0)
    rows = [
        Row("answers among the samples", "various (CIFAR-10)", float(np.mean([len(a) for a in result.answers]))),
        Row("PSNR to the truth, best sample", None, float(psnr.max(1).values.mean())),
        Row("PSNR to the truth, worst sample", None, float(psnr.min(1).values.mean())),
        Row("standard deviation of a pixel", None, float(result.std.mean())),
    ]

    def draw(figure: Any) -> None:
        parts = [y[:, None], truth.transpose(0, 1), x.permute(1, 2, 0, 3, 4, 5).flatten(1, 2)]
        columns = ["mixture", "truth", "", *(part for i in range(samples) for part in (f"sample {i + 1}", ""))]
        sheet(figure.subplots(), torch.cat(parts, dim=1), columns=columns)

    why = (
        "Digits are nearly identifiable: where the paper's samples differ in color and light, ours differ in a stroke."
    )
    return Report(rows, draw, why if name == "ncsn-mnist" else "", left_out, (9.0, 0.8 + 0.8 * mixtures))


def figure6(setup: Setup, *, pairs: int, langevin_pairs: int) -> Report:
    """The distribution of PSNR over class-agnostic mixtures."""
    data, prior = setup.data("mnist"), setup.prior("ncsn-mnist")
    found = {}
    for name, count, sampling in (
        ("Algorithm 1", langevin_pairs, setup.algorithm1()),
        ("basis separate as it is", pairs, setup.sampling("ep")),
    ):
        setup.say(f"{name}: {count} mixtures")
        found[name] = protocols.evaluate_separation(
            data, [prior] * 2, pairs=count, sampling=sampling, compute=setup.compute
        )
    rows = []
    for name, result in found.items():
        published = protocols.PAPER_PSNR["class-agnostic"]["BASIS NCSN"] if name == "Algorithm 1" else None
        share = 0.67 if name == "Algorithm 1" else None
        settings, psnr = f"{result['mixtures']} mixtures", result["psnr"]
        rows += [
            Row(f"mean PSNR, {name}", published, psnr["mean"], psnr["standard_error"], settings),
            Row(f"share above the mean, {name}", share, psnr["share_above_mean"], None, settings),
            Row(f"share above 25 dB, {name}", None, psnr["share_above_25_db"], None, settings),
        ]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        bins = np.linspace(5, 50, 46).tolist()
        for color, (name, result) in zip((PUBLISHED, OURS), found.items(), strict=True):
            axes.hist(result["psnr_per_mixture"], bins=bins, density=True, alpha=0.7, color=color, label=name)
        axes.axvline(
            protocols.PAPER_PSNR["class-agnostic"]["BASIS NCSN"],
            color="#228833",
            linestyle="--",
            label="published mean",
        )
        axes.set(xlabel="PSNR (dB)", ylabel="density")
        axes.legend(fontsize=8)

    why = (
        "Two parts, as in the paper: mixtures that come out right, and wrong separations that add up as well. Figure "
        "6's text puts the mean at 29.5 dB, Table 2 at 29.3."
    )
    return Report(rows, draw, why)


def figure9(setup: Setup, *, mixtures: int, steps: int) -> Report:
    """The components at the end of every noise level."""
    found, left_out = setup.priors("ncsn-cifar", "ncsn-mnist")
    name = next(iter(found))
    truth, y = _mixtures(setup.data("mnist" if name == "ncsn-mnist" else "cifar10"), mixtures)
    operator = operators.Mixture([0.5, 0.5])
    sampling = setup.algorithm1(levels=10, steps=steps)
    frames = posterior.Frames(lambda progress: setup.say(f"noise {progress.sigma:.3f}"))
    seeds = samplers.picture_seeds(setup.seed, y)
    conditional = posterior.Guided([found[name]] * 2, operator, sampling)
    posterior.drawn(conditional, y, seeds, compute=setup.compute, watch=frames)
    ends = torch.stack([frames.of(i) for i in range(mixtures)], dim=2)  # (levels, 2, n, c, h, w)
    states = dict(zip(sampling.sigmas(conditional.priors), ends, strict=True))
    order = posterior.ordering.component_order(
        list(states.values())[-1].clamp(0, 1), [0, 0], references=truth, mixture=y
    )
    states = {sigma: posterior.ordering.reordered(x, order) for sigma, x in states.items()}
    rows = []
    for sigma, x in states.items():
        psnr = posterior.ordering.psnr(x.clamp(0, 1), truth).mean(0)
        off = float(posterior.ordering.residual(2 * operator(x), 2 * y).square().mean().sqrt()) / 255
        settings = f"residual of the sum {off:.4f}, {off / sigma:.2f} sigma"
        error = float(psnr.std() / mixtures**0.5) if mixtures > 1 else None
        rows.append(Row(f"PSNR at sigma {sigma:.3f}", None, float(psnr.mean()), error, settings))

    def draw(figure: Any) -> None:
        shown = min(mixtures, 3)
        sides = [
            torch.stack([*(x[j, i] for x in states.values()), truth[j, i], y[i]])
            for i in range(shown)
            for j in range(2)
        ]
        columns = [*(f"{sigma:.2f}" for sigma in states), "truth", "mixture"]
        sheet(figure.subplots(), torch.stack(sides), columns=columns)

    why = "The paper shows pictures only. The mixture holds to the noise level throughout, since gamma = sigma."
    return Report(rows, draw, why, left_out, (7.5, 4.2))


def figure10(setup: Setup, *, mixtures: int, samples: int) -> Report:
    """One posterior sample with Glow, the most probable of several, and one sample with NCSN."""
    found, left_out = setup.priors("ncsn-mnist", "glow-mnist")
    truth, y = _mixtures(setup.data("mnist"), mixtures)
    published = protocols.PAPER_PSNR["class-agnostic"]
    shown, rows = {}, []
    for name, prior in found.items():
        model = "NCSN" if name == "ncsn-mnist" else "Glow"
        for what, count, quoted in (
            (f"{model} sample", 1, published[f"BASIS {model}"]),
            (f"{model} best of {samples}", samples, published.get(f"BASIS {model} 10x")),
        ):
            setup.say(f"{what}, {mixtures} mixtures")
            result = tasks.separate(
                y,
                prior=prior,
                references=list(truth),
                samples=count,
                select="best",
                sampling=setup.algorithm1(),
                compute=setup.compute,
            )
            assert result.psnr is not None
            psnr = result.psnr.mean(0)[:, 0]
            shown[what] = result.components[:, :, 0]
            error = float(psnr.std() / mixtures**0.5) if mixtures > 1 else None
            settings = f"{mixtures} mixtures, {result.evaluations:,.0f} evaluations"
            rows.append(Row(f"PSNR, {what}", quoted, float(psnr.mean()), error, settings))

    def draw(figure: Any) -> None:
        parts: Sequence[Tensor] = [y[None], *shown.values(), truth]
        grid = torch.stack([torch.cat([x[:, i] for x in parts]) for i in range(min(mixtures, 6))])
        columns = ["mixture", *(part for name in shown for part in (name, "")), "truth", ""]
        sheet(figure.subplots(), grid, columns=columns)

    why = (
        "Published numbers are Table 2's. The paper takes the best of several with Glow only; an estimate of the "
        "likelihood makes it possible with a score network (docs/concepts/samplers.md)."
    )
    return Report(rows, draw, why, left_out, (7.0, 0.8 + 0.9 * min(mixtures, 6)))
