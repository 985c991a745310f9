"""What answers, and test pictures, by the names that commands are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .records import weights_sha256

if TYPE_CHECKING:
    from ..api import DirectModel, Prior
    from ..compute import Compute
    from ..data.datasets import Dataset
    from ..evaluation.metrics import Realism
    from ..tasks.base import Task


def load_priors(
    task: Task, names: Sequence[str] | None, weights: Path | None, compute: Compute
) -> tuple[list[Prior], dict[str, str]]:
    """A prior for each component, and what a record says of their weights."""
    from ..plugins import prior_spec
    from ..tasks.library import loaded

    names = list(names or [task.prior])
    priors = loaded(task, names, weights, compute)
    return priors, weights_sha256({name: prior_spec(name) for name in names}, weights)


def load_model(task: Task, name: str, weights: Path | None, compute: Compute) -> tuple[DirectModel, dict[str, str]]:
    """A direct model, and what a record says of its weights."""
    from ..plugins import posterior_spec
    from ..priors.loading import load_model

    model = load_model(name, task.name, weights, compute.place)
    return model, weights_sha256({name: posterior_spec(name)}, weights)


def load_pictures(name: str, split: str, data_dir: Path | None, shape: tuple[int, int, int]) -> Dataset:
    """The split of a data set; a folder's or LSUN's pictures are made those of a prior of ``shape``."""
    from ..data.datasets import Squares, load_dataset

    return load_dataset(name, split, data_dir, Squares(shape[1], gray=shape[0] == 1))


def load_realism(
    test: Dataset, name: str, inception: Path | None, data_dir: Path | None, compute: Compute
) -> Realism | None:
    """What judges pictures by their features; nothing for gray ones, nor, without Inception, for other than 32 x 32."""
    from ..evaluation.features import cifar_realism, inception_realism

    if test.shape[0] != 3:
        return None
    if inception:
        return inception_realism(inception, load_pictures(name, "train", data_dir, test.shape), compute.device)
    return cifar_realism(device=compute.device) if test.shape[1:] == (32, 32) else None
