"""``basis train cinn``. Importing this does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from basis_cli.api import commands


@dataclass(frozen=True)
class FlowTraining(commands.TrainingOptions):
    """With the defaults of a conditional flow."""

    steps: commands.Steps = 10_000
    batch: commands.BatchSize = 256
    optimizer: commands.OptimizerChoice = commands.Optimizer.adam


@commands.with_options
def train_cinn(
    training: FlowTraining,
    data: commands.Data = "mnist",
    data_dir: commands.DataDir = None,
    out: commands.Out = Path("runs/cinn"),
    blocks: Annotated[int, typer.Option(min=1, help="Couplings (24 as published).")] = 10,
    width: Annotated[int, typer.Option(min=1, help="Units of the couplings' hidden layers (512 as published).")] = 256,
    hidden: Annotated[int, typer.Option(min=1, help="How many hidden layers (3 as published).")] = 2,
    directions: Annotated[
        int, typer.Option(min=0, help="Principal directions that go through couplings; 0: pixels, as published.")
    ] = 256,
    clamp: Annotated[float, typer.Option(help="Bound of the logarithm of a coupling's scale.")] = 1.5,
    noise: Annotated[float, typer.Option(help="Standard deviation of the noise in what is modelled.")] = 0.1,
    start_from: commands.StartFrom = None,
) -> None:
    """Train a conditional invertible network by maximum likelihood: digits given their class."""
    from .training import train_classes

    config = {"blocks": blocks, "width": width, "hidden": hidden, "directions": directions}
    train_set, test_set, notes = commands.splits(data, data_dir)
    training.run(
        train_classes,
        train_set,
        test_set,
        out,
        training.settings(False),
        config=config | {"clamp": clamp, "noise": noise},
        start_from=start_from,
        notes=notes,
    )


class Conditioning(str, Enum):
    joint = "joint"
    fixed = "fixed"
    none = "none"


@dataclass(frozen=True)
class ColourTraining(FlowTraining):
    """With the defaults of one of colours."""

    batch: commands.BatchSize = 32
    optimizer: commands.OptimizerChoice = commands.Optimizer.muon
    clip: commands.Clip = 1.0


@commands.with_options
def train_cinn_colour(
    training: ColourTraining,
    squares: commands.SquareOptions,
    data: commands.Data = "color-mnist",
    data_dir: commands.DataDir = None,
    out: commands.Out = Path("runs/cinn-colour"),
    blocks: Annotated[
        str | None, typer.Option(help="Couplings at each resolution, the last fully connected. (default: by the size)")
    ] = None,
    widths: Annotated[str | None, typer.Option(help="Channels inside them. (default: by the size)")] = None,
    features: Annotated[
        str | None, typer.Option(help="Channels of the conditioning network. (default: by the size)")
    ] = None,
    conditioning: Annotated[
        Conditioning, typer.Option(help="Train the conditioning network with the flow, before it, or have none.")
    ] = Conditioning.joint,
    clamp: Annotated[float, typer.Option(help="Bound of the logarithm of a coupling's scale.")] = 1.5,
    noise: Annotated[float, typer.Option(help="Standard deviation of the noise on standardised colours.")] = 0.05,
    flip: commands.Flip = False,
    start_from: commands.StartFrom = None,
) -> None:
    """Train a conditional invertible network by maximum likelihood: colours given the gray picture."""
    from .training import train_colours

    config: dict[str, Any] = {"clamp": clamp, "noise": noise, "conditioning": conditioning.value}
    numbers = {"blocks": blocks, "widths": widths, "features": features}
    config |= {name: commands.whole_numbers(text, f"--{name}") for name, text in numbers.items() if text}
    settings = training.settings(flip, **squares.cropped())
    train_set, test_set, notes = commands.splits(data, data_dir, squares)
    training.run(train_colours, train_set, test_set, out, settings, config=config, start_from=start_from, notes=notes)
