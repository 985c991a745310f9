"""Conditional invertible networks (Ardizzone et al. 2019): ``x ~ p(x | y)`` in one pass, with exact likelihoods.

Importing this module does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from basis_cli.api import PosteriorSpec, WeightFile, hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def basis_posteriors() -> list[PosteriorSpec]:
    return [
        PosteriorSpec(
            name="cinn-mnist",
            summary="Handwritten digits of a class, 28 x 28 gray",
            task="sample",
            shape=(1, 28, 28),
            load="basis_cinn.model:load",
            weights=WeightFile("cinn-mnist.safetensors"),
            licence="MIT",
        ),
    ]


@hookimpl
def basis_commands(app: typer.Typer) -> None:
    from basis_cli.api import commands

    from .commands import train_cinn

    commands.group(app, "train").command("cinn")(train_cinn)
