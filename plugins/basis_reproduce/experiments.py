"""Which tables and figures there are, and how much of each to do. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Experiment:
    """A table or figure, the function that makes it, and how much of it to do.

    ``run`` is ``"module:function"``, called as ``function(setup, **sizes)``; it returns a
    :class:`basis_reproduce.Report`. The sizes in ``full`` are the paper's; ``quick`` takes a minute or two on
    two CPU cores.
    """

    name: str
    source: str
    summary: str
    run: str
    quick: Mapping[str, Any]
    full: Mapping[str, Any]
    page: str = "reproduction"
    """Of docs/results."""


def _experiment(
    name: str, source: str, summary: str, run: str, page: str = "reproduction", **sizes: tuple[Any, Any]
) -> Experiment:
    quick, full = ({key: pair[i] for key, pair in sizes.items()} for i in (0, 1))
    return Experiment(name, source, summary, f"basis_reproduce.{run}", quick, full, page)


_ALL = (
    _experiment(
        "table1",
        "BASIS, Table 1",
        "bits/dim of test pictures and of separations",
        "tables:table1",
        pictures=(200, 10_000),
        pairs=(4, 100),
    ),
    _experiment(
        "table2",
        "BASIS, Table 2",
        "PSNR of MNIST separations, beside the baselines",
        "tables:table2",
        baseline_pairs=(100, 6_000),
        pairs=(100, 6_000),
        langevin_pairs=(8, 6_000),
        several_pairs=(8, 6_000),
        glow_pairs=(2, 6_000),
        glow_several_pairs=(1, 6_000),
    ),
    _experiment(
        "table3",
        "BASIS, Table 3",
        "inception score and FID of CIFAR-10 separations",
        "tables:table3",
        pairs=(10, 25_000),
    ),
    _experiment(
        "table4",
        "BASIS, Table 4",
        "inception score and FID of colorized CIFAR-10 pictures",
        "tables:table4",
        pictures=(20, 50_000),
    ),
    _experiment(
        "figure2",
        "BASIS, Figure 2",
        "norms of the noisy priors' gradients",
        "separation:figure2",
        pictures=(200, 10_000),
    ),
    _experiment(
        "figure3",
        "BASIS, Figure 3",
        "what annealing and noise each contribute",
        "separation:figure3",
        pairs=(3, 1_000),
        steps=(100, 100),
    ),
    _experiment(
        "figure5",
        "BASIS, Figure 5",
        "several samples of the same mixtures",
        "separation:figure5",
        mixtures=(2, 8),
        samples=(4, 8),
    ),
    _experiment(
        "figure6",
        "BASIS, Figure 6",
        "the distribution of PSNR",
        "separation:figure6",
        pairs=(150, 5_000),
        langevin_pairs=(8, 5_000),
    ),
    _experiment(
        "figure9",
        "BASIS, Figure 9",
        "the components at every noise level",
        "separation:figure9",
        mixtures=(6, 100),
        steps=(100, 100),
    ),
    _experiment(
        "figure10",
        "BASIS, Figure 10",
        "a posterior sample, the best of several, and NCSN",
        "separation:figure10",
        mixtures=(2, 100),
        samples=(4, 10),
    ),
    _experiment(
        "ncsn-toy-manifold",
        "NCSN, Figure 1",
        "sliced score matching on CIFAR-10 with and without a little noise",
        "training:toy_manifold",
        iterations=(80, 50_000),
        batch=(16, 128),
        filters=(8, 32),
    ),
    _experiment(
        "ncsn-toy-gmm",
        "NCSN, Figures 2, 3 and 11",
        "two Gaussians: true and estimated scores, three ways to sample",
        "toy:gmm",
        samples=(1_280, 1_280),
        iterations=(4_000, 10_000),
    ),
    _experiment(
        "ncsn-baseline",
        "NCSN, Figure 4",
        "one noise level is not enough",
        "training:baseline",
        iterations=(200, 200_000),
        batch=(64, 128),
        network=("small", "paper"),
        samples=(8, 100),
    ),
    _experiment(
        "ncsn-samples",
        "NCSN, Figures 5 and 14, Table 1",
        "samples, and how they come about",
        "samples:from_noise",
        samples=(9, 100),
        steps=(100, 100),
    ),
    _experiment(
        "ncsn-inpainting",
        "NCSN, Figures 7 and 18",
        "filling in a half, and other masks",
        "samples:inpainting",
        pictures=(2, 10),
        samples=(3, 8),
        steps=(100, 100),
    ),
    _experiment(
        "ncsn-neighbours",
        "NCSN, Figures 6 and 17",
        "the nearest training pictures of samples",
        "samples:neighbours",
        samples=(6, 100),
        steps=(100, 100),
    ),
    _experiment(
        "ncsn-sensitivity",
        "NCSN, Figure 8",
        "step size and number of steps",
        "samples:sensitivity",
        samples=(3, 100),
        most_steps=(200, 1_000),
    ),
    _experiment(
        "ncsn-schedule",
        "NCSN, Figure 9",
        "linear and geometric noise levels",
        "training:schedule",
        iterations=(200, 200_000),
        batch=(64, 128),
        network=("small", "paper"),
        samples=(4, 100),
    ),
    _experiment(
        "ncsn-architecture",
        "NCSN, Figure 10",
        "a RefineNet, and a ResNet without skip connections",
        "training:architecture",
        iterations=(80, 200_000),
        batch=(32, 128),
        filters=(8, 128),
        samples=(6, 100),
        steps=(30, 100),
    ),
    _experiment(
        "cinn-mnist",
        "cINN, class-conditional MNIST",
        "digits of each class, likelihood, Bayes' rule",
        "flows:digits",
        pictures=(1_000, 10_000),
        samples=(300, 2_560),
        iterations=(400, 4_000),
    ),
    _experiment(
        "cinn-mnist-interpolation",
        "cINN, interpolation",
        "codes between two, as every digit",
        "flows:interpolation",
        steps=(12, 12),
    ),
    _experiment(
        "cinn-mnist-transfer",
        "cINN, style transfer",
        "test digits encoded, decoded as every digit",
        "flows:transfer",
        pictures=(10, 10),
    ),
    _experiment(
        "cinn-mnist-components",
        "cINN, principal components",
        "axes of the latent space",
        "flows:components",
        pictures=(2_000, 10_000),
        steps=(10, 10),
    ),
    _experiment(
        "cinn-ablation",
        "cINN, supplement 3",
        "no conditioning network, a fixed one, one trained jointly",
        "flows:ablation",
        iterations=(700, 10_000),
        batch=(32, 64),
        pictures=(300, 1_000),
        samples=(8, 8),
    ),
    _experiment(
        "cinn-colour",
        "cINN, Table 1",
        "colours of photographs: the best of eight, their variety",
        "flows:colours",
        pictures=(20, 5_120),
        samples=(8, 8),
    ),
    _experiment(
        "cinn-failures",
        "cINN, supplement",
        "photographs of which no sample is near",
        "flows:failures",
        pictures=(20, 500),
        samples=(4, 8),
        shown=(8, 12),
    ),
    _experiment(
        "cinn-interpolation",
        "cINN, supplement 4",
        "combinations of two codes, colours of photographs",
        "flows:colour_interpolation",
        pictures=(2, 8),
    ),
    _experiment(
        "cinn-colour-transfer",
        "cINN, colour transfer",
        "colours of one photograph on others",
        "flows:colour_transfer",
        pictures=(5, 10),
    ),
    _experiment(
        "tim-modules",
        "TIM, Tables 8 and 9",
        "one module, and four",
        "implicit:modules",
        iterations=(150, 10_000),
        batch=(16, 16),
        pool=(80, 400),
        codes=(20, 120),
        pictures=(60, 1_000),
        samples=(5, 10),
    ),
    _experiment(
        "tim-samples",
        "TIM, Table 10",
        "10, 60 and 120 codes tried for each picture",
        "implicit:codes",
        iterations=(150, 10_000),
        batch=(16, 16),
        pool=(80, 400),
        pictures=(60, 1_000),
        samples=(5, 10),
    ),
    _experiment(
        "tim-stability",
        "TIM, training",
        "the same inputs in the course of training",
        "implicit:stability",
        iterations=(300, 10_000),
        batch=(16, 16),
        pool=(80, 400),
        codes=(20, 120),
        pictures=(40, 100),
        times=(5, 10),
    ),
    _experiment(
        "tim-table6",
        "TIM, Tables 6 and 7",
        "streets from their layouts",
        "implicit:layout",
        pictures=(40, 500),
        samples=(5, 10),
    ),
    _experiment(
        "posteriors-colorize",
        "Photographs",
        "colours of gray pictures",
        "posteriors:colorize",
        "posteriors",
        pictures=(8, 250),
        samples=(4, 10),
    ),
    _experiment(
        "posteriors-upscale",
        "Photographs",
        "one pixel to many",
        "posteriors:upscale",
        "posteriors",
        factor=(16, 16),
        pictures=(8, 250),
        samples=(4, 10),
    ),
    _experiment(
        "posteriors-decompress",
        "Photographs",
        "strong compression undone",
        "posteriors:decompress",
        "posteriors",
        quality=(5, 5),
        pictures=(8, 250),
        samples=(4, 10),
    ),
    _experiment(
        "robustness",
        "Digits",
        "unequal, unknown, saturated, noisy, lossy, several",
        "robustness:robustness",
        "robustness",
        pairs=(2, 100),
        auto_pairs=(1, 100),
        several=(1, 100),
    ),
    _experiment(
        "uncertainty",
        "Digits, uncertainty",
        "does the truth lie where --uncertainty says",
        "robustness:uncertainty",
        "robustness",
        pairs=(2, 100),
    ),
    _experiment(
        "ms-vae",
        "MS-VAE, MNIST",
        "sums of two, three and four distinct digits",
        "robustness:ms_vae",
        "robustness",
        mixtures=(4, 5_000),
        best_mixtures=(1, 5_000),
    ),
)
EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}
