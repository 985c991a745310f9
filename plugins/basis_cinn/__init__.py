"""Conditional invertible networks (Ardizzone et al. 2019): ``x ~ p(x | y)`` in one pass, with exact likelihoods.

Importing this module does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from basis_cli.api import PosteriorSpec, WeightFile, hookimpl

if TYPE_CHECKING:
    import typer

PAPERS = ("ardizzone2019",)


@hookimpl
def basis_posteriors() -> list[PosteriorSpec]:
    return [
        PosteriorSpec(
            name="cinn-mnist",
            summary="Handwritten digits of a class, 28 x 28 gray",
            task="sample",
            shape=(1, 28, 28),
            load="basis_cinn.model:load",
            cites=PAPERS,
            weights=WeightFile("cinn-mnist.safetensors"),
            licence="MIT",
        ),
        PosteriorSpec(
            name="cinn-colour",
            summary="Colours of gray photographs of any size, drawn at 64 x 64",
            task="colorize",
            shape=(3, 64, 64),
            load="basis_cinn.model:load",
            cites=PAPERS,
            any_size=True,
            weights=WeightFile("cinn-colour.safetensors"),
            licence="MIT",
        ),
        PosteriorSpec(
            name="cinn-color-mnist",
            summary="Colours of color-MNIST, 28 x 28 (train it: basis train cinn-colour --data color-mnist)",
            task="colorize",
            shape=(3, 28, 28),
            load="basis_cinn.model:load",
            cites=PAPERS,
        ),
    ]


@hookimpl
def basis_datasets() -> dict[str, str]:
    return {"color-mnist": "basis_cinn.data:load"}


@hookimpl
def basis_commands(app: typer.Typer) -> None:
    from basis_cli.api import commands

    from .commands import train_cinn, train_cinn_colour

    commands.group(app, "train").command("cinn")(train_cinn)
    commands.group(app, "train").command("cinn-colour")(train_cinn_colour)
