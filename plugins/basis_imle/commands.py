"""``basis train imle``. Importing this does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from basis_cli.api import UsageError, commands


class What(str, Enum):
    upscale = "upscale"
    colorize = "colorize"
    decompress = "decompress"
    paint = "paint"


@dataclass(frozen=True)
class ImleTraining(commands.TrainingOptions):
    """With the defaults of IMLE."""

    batch: commands.BatchSize = 8
    optimizer: commands.OptimizerChoice = commands.Optimizer.adam
    learning_rate: commands.LearningRate = 5e-4


@commands.with_options
def train_imle(
    training: ImleTraining,
    squares: commands.SquareOptions,
    task: Annotated[What, typer.Option(help="What it learns to undo; paint: pictures from layouts.")],
    data: commands.Data,
    data_dir: commands.DataDir = None,
    out: commands.Out = Path("runs/imle"),
    factor: Annotated[int, typer.Option(min=2, help="upscale: how many times.")] = 16,
    channels: Annotated[str, typer.Option(help="Channels of each module, coarse to fine: as many modules.")] = (
        "48,32,24,16"
    ),
    growth: Annotated[str, typer.Option(help="Channels that each layer of a dense block adds.")] = "16,12,8,8",
    blocks: Annotated[str, typer.Option(help="How many threes of dense blocks.")] = "1,1,1,1",
    samples: Annotated[str, typer.Option(help="Codes tried for each picture and module.")] = "20,20,10,5",
    pool: Annotated[int, typer.Option(min=1, help="Pictures that codes are chosen for at a time.")] = 256,
    round_steps: Annotated[int, typer.Option(min=1, help="Steps with these codes.")] = 400,
    flip: commands.Flip = False,
    start_from: commands.StartFrom = None,
) -> None:
    """Train a network of several answers by conditional implicit maximum likelihood.

    For each picture codes are drawn, the one whose answer is nearest is chosen, and brought nearer: every truth gets
    a code that gives it. To paint, --data is a folder of SPLIT/images/NAME.png and SPLIT/labels/NAME.png.
    """
    from .training import train

    config: dict[str, Any] = {"task": task.value, "factor": factor}
    numbers = {"channels": channels, "growth": growth, "blocks": blocks}
    config |= {name: commands.whole_numbers(text, f"--{name}") for name, text in numbers.items()}
    if task is What.paint:
        from .layouts import CLASSES

        config["classes"] = len(CLASSES)
        train_set, test_set, notes = layouts(data)
    else:
        train_set, test_set, notes = commands.splits(data, data_dir, squares)
    training.run(
        train,
        train_set,
        test_set,
        out,
        training.settings(flip, **squares.cropped()),
        config=config,
        samples=commands.whole_numbers(samples, "--samples"),
        pool=pool,
        round_steps=round_steps,
        start_from=start_from,
        notes=notes,
    )


def layouts(folder: str) -> tuple[Any, Any, dict[str, str]]:
    """As ``commands.splits``, of layouts."""
    import sys

    from .layouts import load

    if not Path(folder).is_dir():
        raise UsageError(f"{folder} is no folder", "one of SPLIT/images/NAME.png and SPLIT/labels/NAME.png")
    train_set, test_set = (load(Path(folder), split) for split in ("train", "test"))
    source = f"{train_set.name}, train split, {len(train_set.images)} pictures"
    return train_set, test_set, {"data": source, "command": commands.command_line(sys.argv[1:])}
