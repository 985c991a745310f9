"""``basis train glow``, ``finetune-glow`` and ``weights convert glow``. Importing this does not import torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from basis_cli.api import UsageError, WeightFile, commands, prior_spec, weights


@dataclass(frozen=True)
class Finetuning(commands.TrainingOptions):
    """With the defaults of a level of a ladder."""

    steps: Annotated[int, typer.Option(min=1, help="Batches to train on at each level.")] = 2_000
    learning_rate: commands.LearningRate = 3e-4


def _sigmas(text: str) -> tuple[float, ...]:
    """Noise levels: so many between 0.01 and 1, or those listed."""
    from basis_cli.api import samplers

    try:
        sigmas = (
            samplers.geometric(int(text)) if text.isdecimal() else tuple(float(number) for number in text.split(","))
        )
    except ValueError:
        sigmas = ()
    if not sigmas or not all(0 < sigma < math.inf for sigma in sigmas):
        hint = "say how many levels, --sigmas 10, or which, --sigmas 0.01,0.1,1.0"
        raise UsageError(f"--sigmas {text!r} is no ladder of noise levels", hint)
    return sigmas


@commands.with_options
def train_glow(
    training: commands.TrainingOptions,
    squares: commands.SquareOptions,
    data: commands.DataSets = ["mnist"],  # noqa: B006
    data_dir: commands.DataDir = None,
    out: commands.Out = Path("runs/glow"),
    levels: Annotated[int, typer.Option(min=1, help="Resolutions; each halves the picture.")] = 2,
    depth: Annotated[int, typer.Option(min=1, help="Steps of flow at each resolution (32 as published).")] = 16,
    width: Annotated[int, typer.Option(min=1, help="Channels inside the couplings (512 as published).")] = 128,
    conditional: Annotated[
        bool, typer.Option("--conditional", help="One model for all noise levels; else of pictures without noise.")
    ] = False,
    whiten: Annotated[
        int,
        typer.Option(min=0, help="With --conditional: begin with the Gaussian of so many principal directions."),
    ] = 0,
    gaussians: Annotated[
        int,
        typer.Option(min=0, help="With --conditional: mix the flow with so many Gaussians, better at much noise."),
    ] = 0,
    directions: Annotated[
        int | None,
        typer.Option(min=1, help="With --gaussians: in how many each has a variance of its own (default: 20)."),
    ] = None,
    score_matching: Annotated[
        float,
        typer.Option(min=0, help="With --conditional: weight of the score's denoising error beside the bits/dim."),
    ] = 0.0,
    smooth: Annotated[
        bool, typer.Option("--smooth", help="SiLU for ReLU inside the couplings, for a continuous score.")
    ] = False,
    flip: commands.Flip = False,
    start_from: commands.StartFrom = None,
) -> None:
    """Train a Glow by maximum likelihood; basis finetune-glow makes a ladder of noise levels of it."""
    from .training import train

    if directions and not gaussians:
        raise UsageError("--directions are those of Gaussians", "--gaussians 100")
    config: dict[str, Any] = {"levels": levels, "depth": depth, "width": width, "conditional": conditional}
    config |= {"whiten": whiten, "smooth": smooth, "gaussians": gaussians}
    config |= {"directions": directions} if directions else {}
    settings = training.settings(flip, **squares.cropped())
    train_set, test_set, notes = commands.splits(data, data_dir, squares)
    training.run(
        train,
        train_set,
        test_set,
        out,
        settings,
        config=config,
        start_from=start_from,
        score_matching=score_matching,
        notes=notes,
    )


@commands.with_options
def finetune_glow(
    training: Finetuning,
    squares: commands.SquareOptions,
    prior: Annotated[
        str, typer.Option("--prior", help="The Glow to start from, at no noise: any without whitening.")
    ] = "glow-mnist",
    start_from: Annotated[Path | None, typer.Option(help="Its weights, if they are a file of your own.")] = None,
    sigmas: Annotated[str, typer.Option(help="How many noise levels from 0.01 to 1, or a list a,b,...")] = "10",
    data: commands.DataSets = ["mnist"],  # noqa: B006
    data_dir: commands.DataDir = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the ladder, one file a level.")] = Path(
        "runs/glow-ladder"
    ),
    flip: commands.Flip = False,
) -> None:
    """Fine-tune a Glow level by level from no noise on, each from the one below: the paper's appendix A.1.

    Writes a file for each level and ladder.json, which --weights takes. A level that fails is tried again with a
    smaller learning rate.
    """
    from .training import finetune

    ladder = _sigmas(sigmas)
    spec = prior_spec(prior)
    if spec.weights is None and start_from is None:
        raise UsageError(f"{prior} has no weights of its own", "give --start-from FILE; basis train glow makes one")
    settings = training.settings(flip, **squares.cropped())
    train_set, test_set, notes = commands.splits(data, data_dir, squares)

    def report(text: str) -> None:
        commands.stderr.print(text, style="yellow", soft_wrap=True)

    training.run(
        finetune,
        train_set,
        test_set,
        out,
        settings,
        start_from=weights.find(spec.weights or WeightFile(""), start_from),
        sigmas=ladder,
        notes=notes,
        report=report,
    )


@commands.with_options
def convert_glow(
    conversion: commands.Conversion,
    sigma: Annotated[
        float | None, typer.Option(min=0, help="Enter it into the ladder.json beside the file, as this noise level.")
    ] = None,
) -> None:
    """Turn the model.ckpt.index of OpenAI's code, with the files beside it, into weights that `--weights` takes."""
    conversion.check()
    from .convert import convert

    conversion.show(convert(conversion.checkpoint, conversion.out, conversion.size, sigma))
