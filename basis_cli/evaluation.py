"""Measures a prior and a sampler on a whole protocol, as the paper does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from . import metrics, samplers
from .api import Prior
from .datasets import Dataset, mixture_indices
from .operators import Mixture
from .tasks import Sampling, image_seed, sample_posterior

PAPER_PSNR = {  # Table 2: mean PSNR in dB over 6,000 MNIST pairs
    "class-split": {
        "average": 14.8,
        "NMF": 16.0,
        "NES": 24.3,
        "BASIS Glow": 22.9,
        "BASIS Glow 10x": 27.7,
        "BASIS NCSN": 29.5,
    },
    "class-agnostic": {
        "average": 14.9,
        "NMF": 9.4,
        "S-D": 18.5,
        "BASIS Glow": 22.7,
        "BASIS Glow 10x": 27.1,
        "BASIS NCSN": 29.3,
    },
}


def summary(psnr: np.ndarray) -> dict[str, Any]:
    """Mean, its standard error, median and shares of a set of PSNRs, in dB."""
    return {
        "mean": float(psnr.mean()),
        "standard_error": float(psnr.std(ddof=1) / np.sqrt(len(psnr))) if len(psnr) > 1 else None,
        "median": float(np.median(psnr)),
        "share_above_25_db": float((psnr > 25).mean()),
        "share_above_mean": float((psnr > psnr.mean()).mean()),
    }


def evaluate_separation(
    data: Dataset,
    priors: Sequence[Prior],
    *,
    protocol: str = "class-agnostic",
    pairs: int = 500,
    pairs_seed: int = 0,
    sampling: Sampling | None = None,
    callback: Callable[..., None] = samplers.no_callback,
) -> dict[str, Any]:
    """Separate ``pairs`` mixtures of ``len(priors)`` pictures of ``data``: Table 2 and Figure 6.

    The PSNR of a mixture is the mean over its components, clipped to [0, 1], under the best permutation. The samples
    are judged as the sampler leaves them, without the last correction that :func:`basis_cli.tasks.separate` makes.

    Returns:
        ``psnr`` and ``average`` (the baseline that answers with the mean picture) as :func:`summary` makes them,
        ``psnr_per_mixture``, ``residual_8bit_rms`` of the sum over k, seconds, evaluations and the settings.
    """
    sampling = sampling or Sampling()
    k = len(priors)
    chosen = mixture_indices(data.labels, k, pairs, protocol, pairs_seed)
    truth = torch.from_numpy(data.images[chosen].swapaxes(0, 1).astype(np.float32) / 255)
    operator = Mixture([1 / k] * k)
    y = operator(truth)
    began = time.perf_counter()
    seeds = [image_seed(sampling.seed, pair) for pair in range(pairs)]
    x, evaluations = sample_posterior(priors, operator, y, seeds, sampling, callback)
    seconds = time.perf_counter() - began
    off = metrics.residual(operator(x), y)
    x = metrics.order_components(x.clamp(0, 1), [0] * k, references=truth, mixture=y)
    psnr = metrics.psnr(x, truth).mean(0).numpy()
    average = metrics.psnr(y[None].expand_as(truth), truth).mean(0).numpy()
    return {
        "data": data.name,
        "split": data.split,
        "protocol": protocol,
        "k": k,
        "mixtures": pairs,
        "pairs_seed": pairs_seed,
        "psnr": summary(psnr),
        "average": summary(average),
        "residual_8bit_rms": float(off.square().mean().sqrt()),
        "evaluations": evaluations,
        "seconds": seconds,
        "settings": sampling.described(priors),
        "psnr_per_mixture": [round(float(value), 3) for value in psnr],
    }
