"""Mixtures as people have them, and those of other papers: digits, beside the mixture left as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from basis_cli.api import coverage, datasets, posterior, protocols, tasks

from . import Report, Row, Setup
from .figures import beside

NOISE = 0.05


@dataclass(frozen=True)
class Mixed:
    """How digits were mixed and stored, and what separation is told of it."""

    what: str
    k: int = 2
    alpha: str | None = None
    mixing: str = "mean"
    unknown: bool = False
    """Whether the coefficients are not told."""
    noise_std: float | None = None
    told: bool = True
    """Whether the noise is."""
    quality: int | None = None
    """Of JPEG."""
    levels: int | None = None
    preset: str | None = None

    @property
    def task(self) -> tasks.Separate:
        """The task whose operator makes these mixtures."""
        mixing = tasks.Mixing(self.mixing)
        if self.alpha and ";" in self.alpha:
            return tasks.Together(self.k, self.alpha, mixing, observations=self.alpha.count(";") + 1)
        if self.quality:
            return tasks.Recorded(self.k, self.alpha, mixing, quality=self.quality)
        return tasks.Separate(self.k, self.alpha, mixing)


MATRIX = "0.65,0.35;0.4,0.6"
SHARES = ("0.6,0.4", "0.7,0.3", "0.8,0.2", "0.9,0.1")
TWO = (
    Mixed("equal"),
    *(Mixed(f"{alpha.replace(',', ' : ')}, given", alpha=alpha) for alpha in SHARES),
    Mixed("sum, cut at white", mixing="sum"),
    Mixed("maximum", mixing="max"),
    Mixed(f"noise of {NOISE}, given", noise_std=NOISE),
    Mixed(f"noise of {NOISE}, not given (auto)", noise_std=NOISE, told=False),
    Mixed("JPEG of quality 75", quality=75),
    Mixed("JPEG of quality 50", quality=50),
    Mixed("two mixtures, coefficients given", alpha=MATRIX, levels=10),
    Mixed("two mixtures, coefficients not given", alpha=MATRIX, unknown=True, levels=10),
)
AUTO = (
    Mixed("0.5 : 0.5, not given (auto)", unknown=True),
    *(Mixed(f"{alpha.replace(',', ' : ')}, not given (auto)", alpha=alpha, unknown=True) for alpha in SHARES),
)
MANY = (
    *(
        Mixed(f"{number} digits{', --best' if preset else ''}", k=k, preset=preset)
        for k, number in ((3, "three"), (4, "four"))
        for preset in (None, "best")
    ),
    Mixed("0.5 : 0.3 : 0.2, not given (auto)", k=3, alpha="0.5,0.3,0.2", unknown=True),
    Mixed("maximum, --best", mixing="max", preset="best"),
)


def robustness(setup: Setup, *, pairs: int, auto_pairs: int, several: int) -> Report:
    """PSNR of separations of mixtures of all kinds: two digits, unknown coefficients, three and four digits."""
    counts = [*((mixed, pairs) for mixed in TWO), *((mixed, auto_pairs) for mixed in AUTO)]
    rows = [_row(setup, mixed, count) for mixed, count in [*counts, *((mixed, several) for mixed in MANY)]]
    why = (
        "Pairs are MNIST's test digits, any two; mixtures are stored in 8 bits. PSNR is the mean over the components, "
        "in their best order. Untouched: the mixture as every component, of two mixtures the first. Coefficients that "
        "are not given are estimated (--alpha auto), and so is noise (--noise-std auto). Two mixtures: 0.65 : 0.35 "
        "and 0.4 : 0.6 of the same digits. Answers are judged as the sampler leaves them."
    )
    return Report(rows, lambda figure: beside(figure, rows, "mean PSNR (dB)"), why, size=(7.0, 6.5))


def _row(setup: Setup, mixed: Mixed, pairs: int) -> Row:
    found = setup.once(f"{mixed.what}: {pairs} mixtures", lambda: _measured(setup, mixed, pairs))
    psnr = found["psnr"]
    settings = (
        f"{pairs:,} mixtures, {found['evaluations']:,.0f} evaluations, {psnr['share_above_25_db']:.0%} over 25 dB"
    )
    if "within" in found:
        settings += f"; coefficients within 0.02 in {found['within']:.0%}"
    untouched = found["average"]["mean"]
    return Row(mixed.what, None, psnr["mean"], psnr["standard_error"], settings, untouched=untouched)


def _measured(setup: Setup, mixed: Mixed, pairs: int) -> dict[str, Any]:
    data, prior = setup.data("mnist"), setup.prior("ncsn-mnist")
    task, sampling = mixed.task, setup.sampling("ep", levels=mixed.levels, noise_std=mixed.noise_std)
    sampling, samples, select = task.chosen(mixed.preset, sampling, None, None)
    if not mixed.told:
        return _noise_measured(setup, task, sampling, pairs)
    found = protocols.evaluate_separation(
        data,
        [prior] * mixed.k,
        task=task,
        unknown=mixed.unknown,
        pairs=pairs,
        pairs_seed=setup.seed,
        samples=samples,
        select=select,
        sampling=sampling,
        compute=setup.compute,
    )
    if mixed.unknown:
        found["within"] = sum(error <= 0.02 for error in found["alpha_error"]) / pairs
    return {name: found[name] for name in ("psnr", "average", "evaluations", "within") if name in found}


def _noise_measured(setup: Setup, task: tasks.Separate, sampling: posterior.Sampling, pairs: int) -> dict[str, Any]:
    """As :func:`protocols.evaluate_separation`, where the noise is measured in each mixture."""
    data, prior = setup.data("mnist"), setup.prior("ncsn-mnist")
    truth = data[datasets.mixture_indices(data, task.k, pairs, "class-agnostic", setup.seed).T]
    y = protocols.observed(task, truth, sampling)
    found = tasks.separate(
        y,
        prior=prior,
        references=list(truth),
        sampling=replace(sampling, noise_std="auto"),
        compute=setup.compute,
    )
    assert found.psnr is not None
    untouched = posterior.ordering.psnr(y[None].expand_as(truth), truth).mean(0)
    return {
        "psnr": protocols.summary(found.psnr.mean((0, 2)).numpy()),
        "average": protocols.summary(untouched.numpy()),
        "evaluations": found.evaluations,
    }


def ms_vae(setup: Setup, *, mixtures: int, best_mixtures: int) -> Report:
    """PSNR and SSIM of sums of distinct digits."""
    rows = list(_ms_vae_rows(setup, mixtures, best_mixtures))
    why = (
        "A mixture is the sum of k test digits of distinct classes, not rounded; components are matched by SSIM, and "
        "PSNR and SSIM are means over them (Boukun & Lücke 2026). Their digits are in files of their own; ours are "
        "drawn from the same split. The rows that are quoted have mixtures of their own: LASS is Postolache et al. "
        "(2023), MLASS-BP its extension to more digits, BASIS Table 2. The table of MS-VAE's paper was not at hand."
    )
    shown = [row for row in rows if "SSIM" not in row.what]
    return Report(rows, lambda figure: beside(figure, shown, "mean PSNR (dB)"), why, size=(7.0, 3.5))


def _ms_vae_rows(setup: Setup, mixtures: int, best_mixtures: int) -> Iterator[Row]:
    data, prior = setup.data("mnist"), setup.prior("ncsn-mnist")
    for k in (2, 3, 4):
        for preset, count in ((None, mixtures), ("best", best_mixtures)):
            sampling, samples, select = tasks.Separate(k).chosen(preset, setup.sampling("ep"), None, None)
            called = f"k = {k}: basis separate" + (" --best" if preset else "")

            def measure(
                k: int = k, count: int = count, samples: int = samples, select: str = select, sampling: Any = sampling
            ) -> dict[str, Any]:
                return protocols.evaluate_separation(
                    data,
                    [prior] * k,
                    protocol="ms-vae",
                    pairs=count,
                    pairs_seed=setup.seed,
                    samples=samples,
                    select=select,
                    sampling=sampling,
                    compute=setup.compute,
                )

            found = setup.once(f"{called}, {count} mixtures", measure)
            settings = f"{count:,} mixtures, {found['evaluations']:,.0f} evaluations"
            for name, unit in (("psnr", "PSNR (dB)"), ("ssim", "SSIM")):
                stats = found["ms_vae"][name]
                yield Row(f"{called}, {unit}", None, stats["mean"], stats["standard_error"], settings)
        for name, value in protocols.published("ms-vae", "mnist", k).items():
            yield Row(f"k = {k}: {name}, PSNR (dB)", value, None, None, "quoted")


def uncertainty(setup: Setup, *, pairs: int) -> Report:
    """How often the truth lies within the range of the samples that --uncertainty draws."""
    rows = []
    for what, samples in (("one answer", 1), ("best of four", 4)):
        found = setup.once(f"{what}, {pairs} mixtures", partial(_coverage, setup, pairs, samples))
        settings = f"{pairs:,} mixtures, {found['evaluations']:,.0f} evaluations"
        for name in ("all pixels", "pixels that are not black", "pixels of both digits"):
            share, error = found[name]
            rows.append(Row(f"{what}, {name}", round(found["nominal"], 3), share, error, settings))
        rows.append(Row(f"{what}, spread over error where it is right", 1.0, found["spread"], None, settings))
    why = (
        "Coverage: the share of pixels whose true value lies within the range of eight samples about the answers; "
        "published is what it is for samples of the posterior, 7/9. Black: where the mixture is, so that both digits "
        "are known to be; of both digits: where neither is. Spread: root mean square of the samples about their mean, "
        "over that of the truth about it, where the answer has 25 dB and more."
    )
    return Report(rows, lambda figure: beside(figure, rows, "coverage"), why, size=(7.0, 3.5))


def _coverage(setup: Setup, pairs: int, samples: int) -> dict[str, Any]:
    truth = setup.data("mnist")[datasets.mixture_indices(setup.data("mnist"), 2, pairs, "class-agnostic", setup.seed).T]
    y = protocols.observed(tasks.Separate(2), truth, setup.sampling("ep"))
    found = tasks.separate(
        y,
        prior=setup.prior("ncsn-mnist"),
        references=list(truth),
        samples=samples,
        select="best",
        uncertainty=True,
        sampling=setup.sampling("ep"),
        compute=setup.compute,
    )
    assert found.draws is not None
    assert found.psnr is not None
    draws = found.draws.shape[2]
    within, shown = coverage.covered(found.draws, truth).float(), torch.ones_like(truth)
    regions = {
        "all pixels": shown,
        "pixels that are not black": shown * (y > 0),
        "pixels of both digits": shown * (truth.amin(0) > 0),
    }
    result: dict[str, Any] = {"nominal": coverage.nominal(draws), "evaluations": found.evaluations}
    for name, where in regions.items():
        each = (within * where).sum((0, 2, 3, 4)) / where.sum((0, 2, 3, 4)).clamp_min(1)
        share = float((within * where).sum() / where.sum())
        result[name] = (share, float(each.std() / pairs**0.5) if pairs > 1 else None)
    right = found.psnr.mean((0, 2)) > 25
    error = (found.draws.mean(2) - truth)[:, right].square().mean() / (1 + 1 / draws)
    spread = found.draws.var(2)[:, right].mean()
    return result | {"spread": float((spread / error).sqrt()) if right.any() else None}
