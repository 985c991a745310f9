"""``basis train ncsn`` and ``basis weights convert ncsn``. Importing this module does not import torch."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from basis_cli.api import commands


class Backbone(str, Enum):
    unet = "unet"
    refinenet = "refinenet"
    resnet = "resnet"


class Objective(str, Enum):
    dsm = "dsm"
    ssm = "ssm"


class Schedule(str, Enum):
    geometric = "geometric"
    linear = "linear"


class Given(str, Enum):
    gray = "gray"
    mask = "mask"
    shrunk = "shrunk"


@commands.with_options
def train_ncsn(
    training: commands.TrainingOptions,
    squares: commands.SquareOptions,
    data: commands.DataSets = ["mnist"],  # noqa: B006
    data_dir: commands.DataDir = None,
    out: commands.Out = Path("runs/ncsn"),
    loss: Annotated[
        Objective, typer.Option(help="dsm: denoising score matching; ssm: sliced score matching, several times slower.")
    ] = Objective.dsm,
    schedule: Annotated[
        Schedule | None, typer.Option(help="Fixed noise levels from 1 to 0.01. (default: geometric; unet: any level)")
    ] = None,
    levels: Annotated[
        int | None, typer.Option(min=1, help="How many fixed noise levels; 1: only 0.01. (default: 10)")
    ] = None,
    backbone: Annotated[
        Backbone, typer.Option(help="unet: small and fast; refinenet: the paper's; resnet: its toy network.")
    ] = Backbone.unet,
    widths: Annotated[str, typer.Option(help="unet: channels at each resolution, highest first.")] = "64,128",
    blocks: Annotated[int, typer.Option(min=1, help="unet: residual blocks at each resolution.")] = 3,
    patch: Annotated[int, typer.Option(min=1, help="unet: side of the pixel blocks it works on.")] = 2,
    attention: Annotated[bool, typer.Option(help="unet: see the whole picture; without it, any size fits.")] = True,
    sigma_max: Annotated[
        float | None,
        typer.Option(help="unet: highest noise level of all; from 10, it learns whole areas' colours. (default: 1.4)"),
    ] = None,
    given: Annotated[
        list[Given] | None,
        typer.Option(help="unet: also learn pictures of which this is given, without noise: repeatable."),
    ] = None,
    filters: Annotated[
        int, typer.Option(min=8, help="refinenet, resnet: base channels (64 MNIST, 128 CIFAR-10).")
    ] = 64,
    flip: commands.Flip = False,
    start_from: commands.StartFrom = None,
) -> None:
    """Train a noise-conditional score network by denoising or sliced score matching."""
    from .refinenet import ladder
    from .training import train

    config: dict[str, Any] = {"filters": filters}
    if backbone is Backbone.unet:
        config = {"widths": commands.whole_numbers(widths), "blocks": blocks, "patch": patch}
        config |= {} if attention else {"attention": False}
        config |= {"sigma_max": sigma_max} if sigma_max else {}
        config |= {"given": [kind.value for kind in given]} if given else {}
    if schedule or levels:
        spacing, count, begin = schedule or Schedule.geometric, levels or 10, 0.01 if levels == 1 else 1.0
        if backbone is Backbone.unet:
            config["sigmas"] = ladder(spacing.value, count, begin)
        else:
            config |= {"schedule": spacing.value, "levels": count, "sigma_begin": begin}
    settings = training.settings(flip, **squares.cropped())
    train_set, test_set, notes = commands.splits(data, data_dir, squares)
    training.run(
        train,
        train_set,
        test_set,
        out,
        settings,
        backbone=backbone.value,
        config=config,
        objective=loss.value,
        start_from=start_from,
        notes=notes,
    )


@commands.with_options
def convert_ncsn(conversion: commands.Conversion) -> None:
    """Turn a checkpoint of Song & Ermon's code, of NCSN or NCSNv2, into weights that `--weights` takes."""
    conversion.check()
    from .convert import convert

    conversion.show(convert(conversion.checkpoint, conversion.out, conversion.size))
