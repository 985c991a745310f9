"""The user's verbs. Each says which operator, runs a sampler, and orders what comes out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import samplers
from ..api import Prior
from ..compute import choose_device
from ..data import images
from ..errors import InputError, UsageError
from ..operators import Downsample, Gray, Jpeg, Mask, Mixture, Operator, Unobserved, consistent
from ..posterior import ordering, ranking
from ..posterior.resume import SavedState
from ..posterior.sampling import Sampling, image_seed, sample_posterior
from ..priors import load_prior

Picture = str | Path | np.ndarray | Tensor
"""A file, or intensities in [0, 1] ``(c, h, w)``; ``(n, c, h, w)`` holds several."""


@dataclass
class Result:
    """What a task returns. Tensors are float32 on the CPU in [0, 1]."""

    components: Tensor
    """``(k, n, m, c, h, w)``, ordered; ``m`` is 1, or all samples if asked for, most probable first."""
    y: Tensor
    """What was observed, ``(n, c, h, w)``."""
    residual: Tensor
    """Root mean square of ``A x - y`` in 8-bit levels, ``(n, m)``."""
    psnr: Tensor | None
    """dB to the references, ``(k, n, m)``; ``None`` without references."""
    seconds: float
    evaluations: float
    """Network evaluations for each component of each mixture, all samples and their likelihoods together."""
    log_likelihood: Tensor | None = None
    """Nats, up to a constant, ``(n, samples)``, most probable first; ``None`` for a single sample."""
    log_prob: Tensor | None = None
    """Nats, of each component under its own prior, ``(k, n, m)``, see
    :func:`basis_cli.posterior.ranking.component_log_prob`; ``None`` for priors without a likelihood, and baselines."""
    answers: list[list[int]] = field(default_factory=list)
    """For each mixture, how many samples give the same answer as the most probable one, and as each other."""
    drawn: list[list[int]] = field(default_factory=list)
    """For each mixture, which of its samples, in the order drawn, is the most probable, the second most, ..."""
    std: Tensor | None = None
    """Standard deviation of each pixel over the samples, ``(k, n, c, h, w)``; ``None`` for a single sample."""
    settings: dict[str, Any] = field(default_factory=dict)


def separation(
    priors: Sequence[Prior],
    k: int,
    alpha: Sequence[float] | None = None,
    samples: int = 1,
    references: Sequence[Any] | None = None,
) -> Mixture:
    """The operator of a separation, once everything that describes it fits together.

    Raises:
        UsageError: it does not.
    """
    if k < 1:
        raise UsageError(f"a mixture has at least one component, not k = {k}", "-k 2")
    if len(priors) != k:
        raise UsageError(f"{len(priors)} priors for {k} components", "give --prior once for all, or once for each")
    shapes = sorted({tuple(prior.shape) for prior in priors})
    if len(shapes) > 1:
        raise UsageError(f"the priors model pictures of different shapes: {shapes}")
    if samples < 1:
        raise UsageError(f"samples must be at least 1, not {samples}")
    if alpha is not None and len(alpha) != k:
        raise UsageError(f"{len(alpha)} mixing coefficients for {k} components", "--alpha takes one number for each")
    if references is not None and len(references) != k:
        raise UsageError(f"{len(references)} references for {k} components", "--reference takes one picture for each")
    return Mixture(alpha or [1 / k] * k)


def kinds(priors: Sequence[Prior], operator: Operator) -> list[Hashable]:
    """Components of equal kind may change places: the same prior and the same mixing coefficient."""
    alpha = operator.alpha if isinstance(operator, Mixture) else range(operator.k)
    return [(id(prior), a) for prior, a in zip(priors, alpha, strict=True)]


def ranked_samples(
    priors: Sequence[Prior],
    operator: Operator,
    y: Tensor,
    seeds: Sequence[Sequence[int]],
    sampling: Sampling,
    callback: Callable[..., None] = samplers.no_callback,
    saved: SavedState | None = None,
) -> tuple[list[ranking.Ranked], float]:
    """Samples for each of ``y`` ``(n, ...)``, one for each of its seeds, most probable first, and evaluations
    for each component of it. A single sample is not scored."""
    samples = len(seeds[0])
    repeated = y.repeat_interleave(samples, dim=0)
    flat = [seed for own in seeds for seed in own]
    x, scores, evaluations = sample_posterior(priors, operator, repeated, flat, sampling, callback, samples > 1, saved)
    shape = (len(y), samples)
    scores = torch.zeros(shape) if scores is None else scores.view(shape)
    ranked = map(
        partial(ranking.rank, kinds=kinds(priors, operator)), x.unflatten(1, shape).unbind(1), scores.unbind(0)
    )
    return list(ranked), evaluations * samples


def _as_batch(
    pictures: Picture | Sequence[Picture], shape: tuple[int, int, int], fit: str | None, repeat: bool = False
) -> Tensor:
    """Files, arrays or tensors as float32 ``(n, c, h, w)``; arrays must already have the ``shape`` ``(c, h, w)``.

    ``repeat`` takes arrays of one channel for gray pictures.
    """
    if isinstance(pictures, (np.ndarray, Tensor)):
        batch = torch.as_tensor(pictures).float()
        batch = batch[None] if batch.ndim == 3 else batch
    elif isinstance(pictures, (str, os.PathLike)):
        batch = torch.from_numpy(images.read(pictures, shape, fit))[None]
    else:
        batch = torch.cat([_as_batch(picture, shape, fit, repeat) for picture in pictures])
    if repeat and batch.shape[1] == 1:
        batch = batch.expand(-1, shape[0], -1, -1)
    if tuple(batch.shape[1:]) != tuple(shape):
        raise InputError(f"pictures of shape {tuple(batch.shape[1:])}, but the prior models {tuple(shape)}")
    if not torch.isfinite(batch).all():
        raise InputError("a picture holds values that are not finite")
    return batch


def separate(
    mixtures: Picture | Sequence[Picture],
    *,
    k: int = 2,
    prior: str | Prior | Sequence[str | Prior] = "ncsn-mnist",
    alpha: Sequence[float] | None = None,
    samples: int = 1,
    select: str = "all",
    references: Sequence[Picture] | None = None,
    fit: str | None = None,
    weights: Path | None = None,
    sampling: Sampling | None = None,
    callback: Callable[..., None] = samplers.no_callback,
    saved: SavedState | None = None,
) -> Result:
    """Separate each mixture ``m = sum_i alpha_i x_i`` into ``k`` components drawn from ``p(x | m)``.

    Args:
        mixtures: one or several files or ``(c, h, w)`` arrays in [0, 1], or one ``(n, c, h, w)`` array.
        prior: one for all components or one for each; names or :class:`basis_cli.api.Prior` objects.
        alpha: mixing coefficients; ``1/k`` each unless given, as 8-bit files hold means.
        samples: posterior samples for each mixture.
        select: what to keep of several samples, see :meth:`basis_cli.posterior.ranking.Ranked.select`.
        references: the true components ``x_1 ... x_k`` of the one mixture, or ``(k, n, c, h, w)``, if known.
        fit: what to do with a file of another size: ``crop``, ``resize`` or ``pad``.
        sampling: sampler, seed, device and so on; a picture depends on its seed, not on what runs beside it.
        saved: where to keep the state of a long run; given again, a killed run goes on.

    Raises:
        InputError, UsageError, UnknownPriorError, WeightsError, NotFiniteError.
    """
    given = list(prior) if isinstance(prior, Sequence) and not isinstance(prior, str) else [prior]
    device = sampling.device if sampling else "auto"
    loaded = {one: load_prior(one, weights_path=weights, device=device) for one in given if isinstance(one, str)}
    priors: list[Prior] = [loaded[one] if isinstance(one, str) else one for one in given]
    priors = priors * k if len(priors) == 1 else priors
    operator = separation(priors, k, alpha, samples, references)
    y = _as_batch(mixtures, priors[0].shape, fit)
    truth = None
    if references is not None:
        truth = torch.stack([_as_batch(reference, priors[0].shape, fit) for reference in references])
    sampling = (sampling or Sampling()).for_task("separate")
    return _answers(priors, operator, y, samples, select, truth, sampling, callback, saved)


def _answers(
    priors: Sequence[Prior],
    operator: Operator,
    y: Tensor,
    samples: int,
    select: str,
    truth: Tensor | None,
    sampling: Sampling,
    callback: Callable[..., None],
    saved: SavedState | None,
) -> Result:
    """Sample, choose, make consistent and put in order: what every task does once its operator and ``y`` are known."""
    if samples < 1:
        raise UsageError(f"samples must be at least 1, not {samples}")
    if select not in ranking.SELECT:
        raise UsageError(f"select {select!r} is not known", ", ".join(ranking.SELECT))
    if truth is not None and truth.shape[1] != len(y):
        raise UsageError(f"references for {truth.shape[1]} pictures, but there are {len(y)}")
    began = time.perf_counter()
    seeds = [[image_seed(sampling.seed, sample) for sample in range(samples)]] * len(y)
    ranked, evaluations = ranked_samples(priors, operator, y, seeds, sampling, callback, saved)
    x = torch.stack([one.select(select) for one in ranked], dim=1)  # (k, n, m, c, h, w)
    m = x.shape[2]
    x, repeated = x.flatten(1, 2), y.repeat_interleave(m, dim=0)
    x = corrected(x, operator, repeated, sampling)
    std = torch.stack([one.std for one in ranked], dim=1) if samples > 1 else None
    if operator.k > 1:
        order = ordering.component_order(x[:, ::m], kinds(priors, operator), references=truth, mixture=y)
        x = ordering.reordered(x, order.repeat_interleave(m, dim=1))
        std = None if std is None else ordering.reordered(std, order)
    asked = evaluations > 0  # baselines know nothing of priors
    log_prob = ranking.component_log_prob(priors, x.to(choose_device(sampling.device))) if asked else None
    return Result(
        components=x.unflatten(1, (len(y), m)),
        y=y,
        residual=ordering.residual(operator(x), repeated).view(len(y), m),
        psnr=None if truth is None else ordering.psnr(x, truth.repeat_interleave(m, dim=1)).unflatten(1, (len(y), m)),
        seconds=time.perf_counter() - began,
        evaluations=evaluations,
        log_likelihood=torch.stack([one.log_likelihood for one in ranked]) if samples > 1 else None,
        log_prob=None if log_prob is None else log_prob.cpu().view(operator.k, len(y), m),
        answers=[np.bincount(one.answer).tolist() for one in ranked],
        drawn=[one.drawn for one in ranked],
        std=std,
        settings=sampling.described(priors)
        | ({"alpha": operator.alpha} if isinstance(operator, Mixture) else {})
        | {"samples": samples, "select": select},
    )


def corrected(x: Tensor, operator: Operator, y: Tensor, sampling: Sampling) -> Tensor:
    """The pictures ``x`` ``(k, n, c, h, w)`` within [0, 1] and, unless ``y`` is noisy, consistent with it."""
    return x.clamp(0, 1) if sampling.noise_std else consistent(x, operator, y)


def restoring(operator: Operator) -> str:
    """The task of :data:`basis_cli.posterior.sampling.DEFAULTS` that answers what ``operator`` made of a picture."""
    return "decompress" if isinstance(operator, Jpeg) else "restore"


def restore(
    y: Tensor,
    operator: Operator,
    *,
    prior: str | Prior = "ncsn-cifar",
    samples: int = 1,
    select: str = "all",
    references: Picture | Sequence[Picture] | None = None,
    weights: Path | None = None,
    sampling: Sampling | None = None,
    callback: Callable[..., None] = samplers.no_callback,
    saved: SavedState | None = None,
) -> Result:
    """Draw the pictures that ``operator`` made ``y`` of from ``p(x | y)``: what the tasks below have in common.

    Args:
        y: what was observed, ``(n, ...)``, as ``operator`` makes it of ``(1, n, c, h, w)`` pictures in [0, 1].
        operator: one of :mod:`basis_cli.operators` for one picture, or your own.
        prior, samples, select, weights, sampling, saved: as for :func:`separate`.
        references: the true pictures, one for each of ``y``, if known.

    Returns:
        A :class:`Result` with one component.

    Raises:
        InputError, UsageError, UnknownPriorError, WeightsError, NotFiniteError.
    """
    sampling = (sampling or Sampling()).for_task(restoring(operator))
    loaded = _loaded(prior, weights, sampling)
    truth = None if references is None else _as_batch(references, loaded.shape, None)[None]
    return _answers([loaded], operator, y, samples, select, truth, sampling, callback, saved)


def colorize(
    pictures: Picture | Sequence[Picture],
    *,
    prior: str | Prior = "ncsn-cifar",
    channel_weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3),
    fit: str | None = None,
    **options: Any,
) -> Result:
    """Colour gray pictures: ``y`` is the mean of the channels (section 5.3 of the paper), or weighted.

    Coloured pictures are made gray first; arrays may have one channel. ``options`` are those of :func:`restore`.
    """
    loaded = _loaded(prior, options.get("weights"), options.get("sampling"))
    operator = graying(channel_weights, loaded.shape)
    x = _as_batch(pictures, loaded.shape, fit, repeat=True)
    return restore(operator(x[None]), operator, prior=loaded, **options)


def inpaint(
    pictures: Picture | Sequence[Picture],
    mask: Picture,
    *,
    prior: str | Prior = "ncsn-cifar",
    fit: str | None = None,
    **options: Any,
) -> Result:
    """Fill in what ``mask`` marks: one for all pictures, more than one half where they are unknown.

    It is a file, a name in :data:`UNKNOWN`, or ``(1, h, w)``. ``options`` are those of :func:`restore`.
    """
    loaded = _loaded(prior, options.get("weights"), options.get("sampling"))
    size = loaded.shape[1:]
    missing = unknown(mask, size, fit) if isinstance(mask, (str, Path)) else _as_batch(mask, (1, *size), fit)[0] > 0.5
    operator = Mask(~missing)
    x = _as_batch(pictures, loaded.shape, fit)
    return restore(operator(x[None]), operator, prior=loaded, **options)


def upscale(
    pictures: Picture | Sequence[Picture],
    factor: int,
    *,
    prior: str | Prior = "ncsn-cifar",
    method: str = "box",
    fit: str | None = None,
    **options: Any,
) -> Result:
    """Enlarge pictures ``factor`` times, to the prior's size; they were shrunk by ``method``, ``box`` or ``bicubic``.

    ``options`` are those of :func:`restore`.
    """
    loaded = _loaded(prior, options.get("weights"), options.get("sampling"))
    c, h, w = loaded.shape
    operator = Downsample(factor, (h, w), method)
    y = _as_batch(pictures, (c, h // factor, w // factor), fit)
    return restore(y, operator, prior=loaded, **options)


def decompress(
    pictures: Picture | Sequence[Picture],
    jpeg: Jpeg | None = None,
    *,
    prior: str | Prior = "ncsn-cifar",
    **options: Any,
) -> Result:
    """Undo JPEG compression: find pictures that the prior finds likely and that would give these very files.

    Without ``jpeg`` the pictures are JPEG files, and how they were made is read from their own tables; all of them
    must share it. Decoded arrays need ``jpeg``. ``options`` are those of :func:`restore`.
    """
    loaded = _loaded(prior, options.get("weights"), options.get("sampling"))
    if jpeg is None:
        files = [pictures] if isinstance(pictures, (str, os.PathLike)) else list(pictures)
        if not all(isinstance(file, (str, os.PathLike)) for file in files):
            raise UsageError("arrays do not say how they were compressed", "give jpeg=Jpeg(...)")
        codings = {images.jpeg_coding(file) for file in files}  # type: ignore[arg-type]
        if len(codings) != 1:
            raise UsageError("these files were compressed in different ways", "decompress them one by one")
        jpeg = coded(codings.pop(), loaded.shape)
    return restore(_as_batch(pictures, loaded.shape, None), jpeg, prior=loaded, **options)


UNKNOWN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "right": lambda row, column: column >= 0.5,
    "left": lambda row, column: column < 0.5,
    "top": lambda row, column: row < 0.5,
    "bottom": lambda row, column: row >= 0.5,
    "center": lambda row, column: ((row - 0.5).abs() < 0.25) & ((column - 0.5).abs() < 0.25),
}
"""Masks by name: what is unknown, from rows and columns in [0, 1]."""


def unknown(mask: str | Path, size: tuple[int, int], fit: str | None = None) -> Tensor:
    """``(1, h, w)``, true where a picture is unknown: a name in :data:`UNKNOWN`, or a file that is white there.

    Raises:
        InputError: the file cannot be read, or has another size than ``(h, w)``.
    """
    h, w = size
    if str(mask) in UNKNOWN:
        row, column = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        return UNKNOWN[str(mask)](row, column)[None]
    return torch.tensor(images.read(mask, (1, h, w), fit)) > 0.5


def graying(weights: Sequence[float], shape: tuple[int, int, int]) -> Gray:
    """The operator that makes pictures of a prior's ``shape`` gray.

    Raises:
        UsageError: the prior does not model as many channels as there are weights.
    """
    if shape[0] != len(weights):
        raise UsageError(
            f"the prior models {shape[0]} channels, not {len(weights)}", "choose a prior of colour pictures"
        )
    return Gray(weights)


def coded(
    coding: tuple[Any, tuple[int, int], tuple[int, int]], shape: tuple[int, int, int], name: str = "the JPEG file"
) -> Jpeg:
    """The operator of a file coded as :func:`basis_cli.data.images.jpeg_coding` says, for a prior of this ``shape``.

    Raises:
        InputError: another size, or colour where the prior is gray, or the other way round.
    """
    tables, (h, w), _ = coding
    if (h, w) != tuple(shape[1:]):
        tiles = "--tile; " if h >= shape[1] and w >= shape[2] else ""
        hint = f"{tiles}another size cannot be fitted: its 8 x 8 blocks would be lost"
        raise InputError(f"{name} has {w} x {h} pixels, but the prior models {shape[2]} x {shape[1]}", hint)
    if (len(tables) == 1) != (shape[0] == 1):
        kind = "gray" if len(tables) == 1 else "in colour"
        raise InputError(f"{name} is {kind}, but the prior models {shape[0]} channels")
    return Jpeg(*coding)


def _loaded(prior: str | Prior, weights: Path | None, sampling: Sampling | None) -> Prior:
    device = sampling.device if sampling else "auto"
    return load_prior(prior, weights_path=weights, device=device) if isinstance(prior, str) else prior


def sample(
    prior: str | Prior,
    count: int = 16,
    *,
    weights: Path | None = None,
    sampling: Sampling | None = None,
    callback: Callable[..., None] = samplers.no_callback,
) -> Tensor:
    """``count`` samples of the prior itself, ``(count, c, h, w)`` in [0, 1].

    Raises:
        UsageError, UnknownPriorError, WeightsError, NotFiniteError.
    """
    sampling = (sampling or Sampling()).for_task("sample")
    if count < 1:
        raise UsageError(f"the number of samples must be at least 1, not {count}")
    loaded = _loaded(prior, weights, sampling)
    nothing = torch.zeros(count, 0)
    seeds = [image_seed(sampling.seed, index) for index in range(count)]
    x, _, _ = sample_posterior([loaded], Unobserved(loaded.shape), nothing, seeds, sampling, callback)
    return x[0].clamp(0, 1)
