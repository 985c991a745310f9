"""``basis train``: fit a prior to pictures. Plugins add theirs; here is the network behind cifar-FID."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .commands import BatchSize, DataDir, Out, SaveEvery, Steps, TrainingOptions, splits, whole_numbers
from .groups import with_options

app = typer.Typer(no_args_is_help=True, help="Train a prior on your own pictures or on a standard data set.")


@dataclass(frozen=True)
class ClassifierTraining(TrainingOptions):
    """With the defaults of a classifier."""

    steps: Steps = 1_100
    batch: BatchSize = 500
    save_every: SaveEvery = 100
    sheet_every: Annotated[int, typer.Option("--test-every", min=1, help="Steps between held-out measurements.")] = 200


@app.callback()
def train() -> None:
    """Train a prior on your own pictures or on a standard data set."""


@app.command()
@with_options
def features(
    training: ClassifierTraining,
    data: Annotated[str, typer.Option(help="Data set: mnist or cifar10.")] = "cifar10",
    data_dir: DataDir = None,
    out: Out = Path("runs/features"),
    widths: Annotated[str, typer.Option(help="Channels of the stages; the last is the number of features.")] = (
        "64,224,256"
    ),
) -> None:
    """Train the classifier whose features cifar-FID and cifar-IS compare (needs a data set with labels, in colour)."""
    from ..evaluation.features import train as train_features

    settings = training.settings(True, warmup=50)
    stages = whole_numbers(widths)
    train_set, test_set, notes = splits(data, data_dir)
    if not train_set.labels.any():
        raise UsageError(f"{data} says nothing of classes", "--data cifar10")
    training.run(train_features, train_set, test_set, out, settings, widths=stages, notes=notes)
