"""What the paper compares with, as samplers: they answer once, draw no noise, and do not look at the priors' scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..api import Prior, SamplerSpec
from ..data.datasets import load_dataset
from ..errors import UsageError
from ..operators import LinearOperator, Mixture, Operator
from .base import Progress, Watch, unwatched

ATOMS = 10
"""In a dictionary, for each component that it makes; of 10, 20, 40 what took mixtures of digits apart best."""
DATA = {(1, 28, 28): "mnist", (3, 32, 32): "cifar10"}
"""Whose train split a dictionary for pictures of this shape is learned from."""


def average(
    priors: Sequence[Prior],
    operator: LinearOperator,
    y: Tensor,
    *,
    seeds: Sequence[int],
    watch: Watch = unwatched,
) -> Tensor:
    """The smallest pictures that explain ``y``; for an equal mixture, the mixture as every component (section 5).

    Arguments and result as :func:`basis_cli.samplers.langevin`.
    """
    if not isinstance(operator, LinearOperator):
        raise UsageError("the sampler 'average' needs a linear operator", "--sampler project")
    x = operator.pinv(y)
    watch(Progress(0, 1, 0, 1, 0.0, x))
    return x


def nmf(
    priors: Sequence[Prior],
    operator: Operator,
    y: Tensor,
    *,
    seeds: Sequence[int],
    watch: Watch = unwatched,
) -> Tensor:
    """Non-negative matrix factorization with one dictionary for all components (Table 2, class agnostic).

    The mixture is a sum ``sum_r h_r w_r`` of :data:`ATOMS` ``k`` atoms, ``h >= 0``, of a dictionary learned from
    training pictures (Lee & Seung 2001). Nothing says which component an atom belongs to, so the atoms are dealt out by
    lot, from the picture's seed. Each component gets the share of the mixture that its atoms have. Arguments and result
    as :func:`basis_cli.samplers.langevin`.

    Raises:
        UsageError: no mixture with positive coefficients, scikit-learn not installed, or no training pictures.
    """
    atoms = _dictionary(tuple(priors[0].shape), operator.k * ATOMS)
    lots = [np.random.default_rng(seed).permutation(len(atoms)) % operator.k for seed in seeds]
    return _dealt(operator, y, atoms, np.stack(lots), watch)


def nmf_split(
    priors: Sequence[Prior],
    operator: Operator,
    y: Tensor,
    *,
    seeds: Sequence[int],
    watch: Watch = unwatched,
) -> Tensor:
    """As :func:`nmf`, with a dictionary for each half of the classes (Table 2, class split).

    The atoms of the first half (digits 0-4) make the first component, those of the second half the second.

    Raises:
        UsageError: as :func:`nmf`, or not two components.
    """
    if operator.k != 2:
        raise UsageError(f"nmf-split takes two pictures apart, not {operator.k}", "--sampler nmf")
    atoms = np.concatenate([_dictionary(tuple(priors[0].shape), ATOMS, half) for half in (0, 1)])
    owner = np.arange(len(atoms)) // ATOMS
    return _dealt(operator, y, atoms, np.broadcast_to(owner, (len(y), len(atoms))), watch)


def _dealt(operator: Operator, y: Tensor, atoms: np.ndarray, owner: np.ndarray, watch: Watch) -> Tensor:
    """``x_i = y p_i / (alpha_i sum_j p_j)``, ``p_i = sum_{r: owner_r = i} h_r w_r``, so that the components add up.

    ``atoms`` are ``(r, d)``, and ``owner`` ``(n, r)`` says which component each belongs to.
    """
    if not isinstance(operator, Mixture) or min(operator.alpha) <= 0:
        raise UsageError("nmf takes apart mixtures with positive coefficients only")
    _, factorize = _sklearn()
    mixtures = y.flatten(1).cpu().double().numpy().clip(0)
    h, _, _ = factorize(mixtures, H=atoms, update_H=False, n_components=len(atoms), max_iter=500)
    parts = np.stack([(h * (owner == i)) @ atoms for i in range(operator.k)]) + 1e-9
    alpha = np.array(operator.alpha)[:, None, None]
    x = torch.from_numpy(mixtures * parts / parts.sum(0) / alpha).view(operator.k, *y.shape).to(y)
    watch(Progress(0, 1, 0, 1, 0.0, x))
    return x


@cache
def _dictionary(shape: tuple[int, int, int], atoms: int, half: int | None = None, pictures: int = 3_000) -> np.ndarray:
    """``(atoms, d)``, learned from training pictures, or from those in one ``half`` of the classes."""
    learner, _ = _sklearn()
    if shape not in DATA:
        raise UsageError(f"nmf knows no training pictures of shape {shape}", f"known: {', '.join(map(str, DATA))}")
    data = load_dataset(DATA[shape], "train")
    images = data.images if half is None else data.images[data.upper == bool(half)]
    flat = images[:pictures].reshape(-1, int(np.prod(shape))).astype(np.float64) / 255
    return learner(atoms, init="nndsvda", max_iter=500, random_state=0).fit(flat).components_


def _sklearn() -> tuple[Any, Any]:
    try:
        from sklearn.decomposition import NMF, non_negative_factorization
    except ImportError:
        raise UsageError("nmf needs scikit-learn", "pip install 'basis-cli[eval]'") from None
    return NMF, non_negative_factorization


SAMPLERS = (
    SamplerSpec(
        "average", "the smallest pictures that explain y", "basis_cli.samplers.baselines:average", guided=False
    ),
    SamplerSpec("nmf", "one dictionary for all components", "basis_cli.samplers.baselines:nmf", guided=False),
    SamplerSpec(
        "nmf-split", "one for each half of the classes", "basis_cli.samplers.baselines:nmf_split", guided=False
    ),
)
