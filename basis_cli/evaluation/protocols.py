"""Measures a prior and a sampler on a whole protocol, as the paper does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..api import AnySize, DirectModel, Prior
from ..compute import Compute
from ..data import images
from ..data.datasets import Dataset, mixture_indices, one_of_each
from ..errors import UsageError
from ..operators import estimated, fitted
from ..posterior import Posterior, Sampling, drawn, ordering, ranking
from ..posterior.runner import corrected
from ..samplers import Watch, unwatched
from ..samplers.noise import PerImageNoise, image_seed, picture_seeds
from ..tasks import sample
from ..tasks.base import Task
from ..tasks.samples import Sample
from ..tasks.separation import Separate
from ..tasks.together import Together
from . import metrics, msvae
from .diversity import caveats, diversity, likeness, measurable
from .imagenet import ImageNet
from .published import PAPER_PSNR as PAPER_PSNR
from .published import published as published


def average(values: np.ndarray) -> dict[str, Any]:
    """Mean, its standard error and median."""
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(values.mean()), "standard_error": error, "median": float(np.median(values))}


def summary(psnr: np.ndarray) -> dict[str, Any]:
    """:func:`average` and shares of a set of PSNRs, in dB."""
    return average(psnr) | {
        "share_above_25_db": float((psnr > 25).mean()),
        "share_above_mean": float((psnr > psnr.mean()).mean()),
    }


def evaluate_separation(
    data: Dataset | Sequence[Dataset],
    priors: Sequence[Prior],
    *,
    protocol: str = "class-agnostic",
    task: Separate | None = None,
    unknown: bool = False,
    pairs: int = 500,
    pairs_seed: int = 0,
    samples: int = 1,
    select: str = "best",
    sampling: Sampling | None = None,
    compute: Compute | None = None,
    realism: metrics.Realism | None = None,
    sheet: Path | None = None,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """Separate ``pairs`` mixtures of ``len(priors)`` pictures of ``data``: Table 2 and Figure 6.

    Several data sets are one for each component. ``task`` says how pictures are laid over each other, unless it is
    their mean, and what is stored, in 8 bits; noise of ``sampling.noise_std`` is added before. With ``unknown`` the
    coefficients are not told, and ``alpha_error`` is how far each estimate is off. The PSNR of a mixture is the mean
    over its components, clipped to [0, 1], under the best permutation of those that share a prior. Samples are judged
    as the sampler leaves them, as in the paper; only ``psnr_corrected`` is after the correction of
    :func:`basis_cli.separate`, which improves baselines. Of several ``samples`` one is made as ``select`` says
    (``all``: the most probable). ``sheet`` is a PNG file for the first mixtures: each a column of mixture, components,
    truth.

    Returns:
        ``psnr``, ``psnr_corrected`` and ``average`` (the baseline, the mean picture) as :func:`summary` makes them,
        ``psnr_per_mixture``, ``residual_8bit_rms`` of the sum over k, seconds, evaluations and the settings; for
        pictures in colour :func:`quality` of the average, the separations and the truth (Table 3), with ``caveats``
        where they are few; with different priors :func:`assigned`.

    Raises:
        UsageError: data sets that do not fit the priors; for ``realism``, torchmetrics is not installed.
        BasisError: the sheet cannot be written.
    """
    k, sampling, compute = len(priors), sampling or Sampling(), compute or Compute()
    y, truth, about = mixtures([data] if isinstance(data, Dataset) else data, k, pairs, protocol, pairs_seed)
    made = {id(prior): of_shape(prior, about["data"], truth) for prior in priors}
    priors = [made[id(prior)] for prior in priors]
    _ready(sheet, realism)
    if protocol == "ms-vae":
        msvae.judged(truth[:, :1], truth[:, :1])
    task = task or Separate(k)
    if isinstance(sampling.noise_std, str) or task != Separate(k) or sampling.noise_std:
        y = observed(task, truth, sampling)
    posterior = (replace(task, alpha="auto") if unknown else task).posterior(priors, sampling)
    result = drawn(posterior, y, picture_seeds(sampling.seed, y, samples), compute=compute, watch=watch)
    chosen = torch.stack([one.select(select)[:, 0] for one in result.ranked], dim=1)
    mean = y[None, :, : truth.shape[2]].expand_as(truth)  # of several observations the first
    off = ordering.residual(fitted(posterior.operator, chosen, y)(chosen), y)
    x, written = (
        ordering.reordered(x, ordering.component_order(x, posterior.kinds, references=truth, mixture=mean[0]))
        for x in (chosen.clamp(0, 1), corrected(posterior, chosen, y))
    )
    if sheet:
        _write_sheet(sheet, mean[0], *x, *truth)
    found = about | {"k": k, "mixtures": pairs, "pairs_seed": pairs_seed}
    found |= _psnrs(truth, x, written, mean)
    if protocol == "ms-vae":
        found["ms_vae"] = {name: average(of.numpy()) for name, of in msvae.judged(chosen, truth).items()}
    found |= {
        "residual_8bit_rms": float(off.square().mean().sqrt()),
        "evaluations": result.evaluations,
        "seconds": result.seconds,
        "distinct_answers": float(np.mean([max(one.answer) + 1 for one in result.ranked])),
        "settings": posterior.described() | compute.described() | {"samples": samples, "select": select},
    }
    if unknown:
        alpha = estimated(fitted(posterior.operator, x, y))
        assert alpha is not None
        true = torch.tensor(task.matrix).T if isinstance(task, Together) else torch.tensor(task.coefficients)
        off_by = (alpha - true[:, None]).abs().movedim(1, 0).flatten(1).amax(1)
        found["alpha_error"] = [round(float(error), 4) for error in off_by]
    if truth.shape[2] == 3:
        found["quality"] = _compared(truth, realism, average=mean, separations=x)
        found |= _caveats(realism, k * pairs)
    if len({id(prior) for prior in priors}) == k > 1:
        found["assigned"] = {"separations": assigned(x, priors, truth, compute)}
        found["assigned"]["truth"] = assigned(truth, priors, compute=compute)
    return found


def observed(task: Task, truth: Tensor, sampling: Sampling) -> Tensor:
    """What a task sees ``(n, ...)`` of ``truth`` ``(k, n, c, h, w)`` as files hold it, with noise if there is any."""
    return _noisy(task.operator(tuple(truth.shape[2:]))(truth), sampling)  # type: ignore[arg-type]


def _noisy(y: Tensor, sampling: Sampling) -> Tensor:
    """``y`` ``(n, c, h, w)`` as files hold it, with the noise that ``sampling`` is told of.

    Raises:
        UsageError: it is to be measured.
    """
    if isinstance(sampling.noise_std, str):
        raise UsageError("an evaluation adds the noise itself", "--noise-std 0.05")
    if sampling.noise_std:
        noise = PerImageNoise([image_seed(sampling.seed, i, 1) for i in range(len(y))])
        y = (y + sampling.noise_std * noise.normal((1, *y.shape))[0]).clamp(0, 1)
    return (y * 255).round() / 255


def _psnrs(truth: Tensor, x: Tensor, written: Tensor, untouched: Tensor) -> dict[str, Any]:
    """Of separations as the sampler left them and as they are written, and of the average, in dB."""
    psnr, after, baseline = (ordering.psnr(each, truth).mean(0).numpy() for each in (x, written, untouched))
    found = {"psnr": summary(psnr), "psnr_corrected": summary(after), "average": summary(baseline)}
    return found | {"psnr_per_mixture": [round(float(value), 3) for value in psnr]}


def mixtures(
    data: Sequence[Dataset], k: int, count: int, protocol: str, seed: int
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """``count`` averages of k pictures ``(n, c, h, w)``, the pictures ``(k, n, c, h, w)``, and what they are."""
    if len(data) == 1:
        truth = data[0][mixture_indices(data[0], k, count, protocol, seed).T]
    elif len(data) == k and len({each.shape for each in data}) == 1:
        chosen = one_of_each(data, count, seed)
        truth = torch.stack([each[rows] for each, rows in zip(data, chosen.T, strict=True)])
        protocol = "one of each"
    else:
        shapes = ", ".join(f"{each.name} {each.shape}" for each in data)
        hint = "one for all, or one for each, of the same size"
        raise UsageError(f"{len(data)} data sets for {k} components: {shapes}", hint)
    names = " + ".join(each.name for each in data)
    return truth.mean(0), truth, {"data": names, "split": data[0].split, "protocol": protocol}


@torch.no_grad()
def assigned(
    x: Tensor, priors: Sequence[Prior], truth: Tensor | None = None, compute: Compute | None = None
) -> dict[str, float]:
    """The share of mixtures whose components ``x`` ``(k, n, c, h, w)`` each belong to their own prior.

    ``by likelihood``: each is more probable (:func:`~basis_cli.posterior.ranking.log_likelihood`) under its own prior
    than under any other. ``by distance``, where the ``truth`` is given: no other order of them is nearer to it in mean
    PSNR.
    """
    own = torch.arange(len(x))[:, None]
    parts = [part.to((compute or Compute()).place) for part in x.split(50, dim=1)]
    scores = [[ranking.log_likelihood([prior], part[[i]]) for part in parts] for prior in priors for i in range(len(x))]
    likelihood = torch.stack([torch.cat(each).cpu() for each in scores]).unflatten(0, (len(priors), len(x)))
    found = {"by likelihood": float((likelihood.argmax(0) == own).all(0).float().mean())}
    if truth is not None:
        order = ordering.component_order(x, [0] * len(x), references=truth, mixture=truth.mean(0))
        found["by distance"] = float((order == own).all(0).float().mean())
    return found


def of_shape(prior: Prior, name: str, pictures: Tensor) -> Prior:
    """``prior``, made for the size of ``pictures`` ``(..., c, h, w)`` of ``name`` if it takes any.

    Raises:
        UsageError: it models pictures of another shape.
    """
    c, h, w = pictures.shape[-3:]
    if isinstance(prior, AnySize) and c == prior.shape[0]:
        return prior.sized((h, w))
    _same_shape(prior.shape, name, pictures)
    return prior


def _same_shape(modelled: tuple[int, ...], name: str, pictures: Tensor) -> None:
    shape = tuple(pictures.shape[-3:])
    if shape != tuple(modelled):
        raise UsageError(f"the prior models pictures of shape {tuple(modelled)}, but {name}'s have {shape}")


def _ready(sheet: Path | None, realism: metrics.Realism | None) -> None:
    """Raise what would otherwise end a long run after it is done."""
    if sheet:
        images.out_folder(sheet.parent)
    if realism:
        metrics.torchmetrics("image.fid")


def quality(x: Tensor, truth: Tensor, realism: metrics.Realism | None = None) -> dict[str, float]:
    """PSNR and SSIM of pictures ``(n, c, h, w)`` in [0, 1] to the ``truth``, the means with the PSNR's standard error.

    Pictures too small for SSIM have none. With ``realism`` also its figures, of the pictures alone.
    """
    psnr = ordering.psnr(x, truth)
    found = {
        "psnr": float(psnr.mean()),
        "psnr_standard_error": float(psnr.std() / len(psnr) ** 0.5),
    }
    if min(x.shape[-2:]) >= metrics.SSIM_WINDOW:
        found["ssim"] = float(metrics.ssim(x, truth).mean())
    return found | (realism(x) if realism else {})


def _compared(truth: Tensor, realism: metrics.Realism | None, **answers: Tensor) -> dict[str, dict[str, float]]:
    """:func:`quality` of several answers to the same ``truth``, all ``(..., c, h, w)``, and of the truth itself."""
    pictures = truth.flatten(0, -4)
    rows = {name: quality(x.flatten(0, -4), pictures, realism) for name, x in answers.items()}
    return rows | {"truth": realism(pictures) if realism else {}}


def _caveats(realism: metrics.Realism | None, count: int) -> dict[str, list[str]]:
    """:meth:`~.metrics.Realism.caveats`, if there are any."""
    found = realism.caveats(count) if realism else []
    return {"caveats": found} if found else {}


def evaluate_restoration(
    data: Dataset,
    prior: Prior | None,
    task: Task,
    *,
    model: DirectModel | None = None,
    name: str = "",
    pictures: int = 1000,
    samples: int = 1,
    sampling: Sampling | None = None,
    compute: Compute | None = None,
    realism: metrics.Realism | None = None,
    network: ImageNet | None = None,
    sheet: Path | None = None,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """Damage the first ``pictures`` of ``data``, undo it by ``task`` with ``prior``, and compare with doing it without.

    What is observed has noise of ``sampling.noise_std``, and is rounded to 8 bits, as a file would be. ``sheet`` is
    a PNG file to write the first pictures to: each a column of what was observed, the baseline, up to three samples,
    truth. A direct ``model`` called ``name`` answers in place of a prior, or with one is refined by it.

    Returns:
        ``quality``: :func:`quality` of the ``baseline``, of ``one sample``, of the mean of all samples if there are
        several, and of the truth itself, with ``caveats`` where pictures are few; with several ``best_of``:
        :func:`~.metrics.best_of`, and of the baseline; ``residual_8bit_rms``; then how it was done. With a ``network``
        also :func:`~.diversity.likeness` in ``quality`` and the :func:`~.diversity.diversity` of the samples.

    Raises:
        UsageError: the prior or the model is of pictures of another shape; one sample has no diversity.
    """
    truth, sampling = data[:pictures], sampling or Sampling()
    if network:
        measurable(samples, len(truth))
        metrics.torchmetrics("image.fid")
    _ready(sheet, realism)
    posterior = restoring(data, prior, task, model=model, name=name, sampling=sampling)
    y = _noisy(posterior.operator(truth[None]), sampling)
    compute = compute or Compute()
    result = drawn(posterior, y, picture_seeds(sampling.seed, y, samples), compute=compute, rank=False, watch=watch)
    repeated = y.repeat_interleave(samples, dim=0)
    x = corrected(posterior, torch.stack([one.x for one in result.ranked], dim=1).flatten(1, 2), repeated)
    off = ordering.residual(posterior.operator(x), repeated)
    several = x[0].unflatten(0, (len(y), samples))
    found, best = {"baseline": task.baseline(y, posterior.shape), "one sample": several[:, 0]}, {}
    if samples > 1:
        found[f"mean of {samples}"] = several.mean(1)
        best = {"best_of": metrics.best_of(several, truth)}
        best["best_of"]["baseline"] = metrics.best_of(found["baseline"][:, None], truth)["one"]
    if sheet:
        _write_sheet(sheet, y, found["baseline"], *several[:, :3].unbind(1), truth)
    quality, notes = _compared(truth, realism, **found), _caveats(realism, len(y))
    if network:
        alike = likeness(network, found | {"truth": truth}, truth)
        quality = {name: figures | alike[name] for name, figures in quality.items()}
        notes = {"caveats": notes.get("caveats", []) + caveats(len(y))}
        best["diversity"] = diversity(network, several, truth)
    return {
        "task": task.noun,
        **task.about(),
        "data": data.name,
        "split": data.split,
        "pictures": len(y),
        "quality": quality,
        **notes,
        **best,
        "residual_8bit_rms": float(off.square().mean().sqrt()),
        "evaluations": result.evaluations,
        "seconds": result.seconds,
        "settings": compute.described() | posterior.described() | {"samples": samples},
    }


def restoring(
    data: Dataset,
    prior: Prior | None,
    task: Task,
    *,
    model: DirectModel | None = None,
    name: str = "",
    sampling: Sampling | None = None,
) -> Posterior:
    """What answers ``task`` for pictures of ``data``: a prior, a direct ``model`` called ``name``, or both.

    Raises:
        UsageError: the prior or the model is of pictures of another shape.
    """
    task.operator(data.shape)  # raises what these pictures cannot suffer, whatever answers
    sampling, (_, h, w) = sampling or Sampling(), task.seen(data.shape)
    posterior: Posterior
    if model is None:
        assert prior is not None, "a prior or a model"
        posterior = task.posterior(task.suited([prior], (h, w)), sampling)
    else:
        posterior = task.directed(model, (h, w), sampling, name, [] if prior is None else [prior])
    _same_shape(posterior.shape, data.name, data[:1])
    return posterior


def _write_sheet(path: Path, *rows: Tensor, most: int = 16) -> None:
    """The first pictures of each of ``rows`` ``(n, c, h, w)``, which may be gray or small, below each other."""
    c, h, w = rows[-1].shape[1:]
    columns = min(most, len(rows[-1]))
    shown = [images.filled(picture.numpy(), (c, h, w)) for row in rows for picture in row[:columns]]
    images.write_sheet(path, np.stack(shown), columns=columns)


def evaluate_samples(
    data: Dataset,
    prior: Prior,
    realism: metrics.Realism,
    *,
    count: int = 1000,
    sampling: Sampling | None = None,
    compute: Compute | None = None,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """How much ``count`` samples of the prior itself look like ``data``, beside as many pictures of it."""
    prior = of_shape(prior, data.name, data[:1])
    sampling, compute = sampling or Sampling(), compute or Compute()
    began = time.perf_counter()
    x = sample(prior, count, sampling=sampling, compute=compute, watch=watch)
    return {
        "data": data.name,
        "split": data.split,
        "pictures": count,
        "quality": {
            "samples": realism(x),
            "truth": realism(data[:count]),
        },
        **_caveats(realism, count),
        "seconds": time.perf_counter() - began,
        "settings": Sample().posterior([prior], sampling).described() | compute.described(),
    }
