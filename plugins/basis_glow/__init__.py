"""Glow priors (Kingma & Dhariwal 2018), with exact likelihoods. Importing this module does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from basis_cli.api import PriorSpec, WeightFile, hookimpl

if TYPE_CHECKING:
    import typer

PAPERS = ("kingma2018",)


@hookimpl
def basis_priors() -> list[PriorSpec]:
    return [
        PriorSpec(
            name="glow-mnist",
            summary="Handwritten digits, 28 x 28 gray: a 1.1 M parameter Glow and 100 Gaussians, with likelihoods",
            shape=(1, 28, 28),
            load="basis_glow.prior:load",
            cites=PAPERS,
            weights=WeightFile("glow-mnist.safetensors"),
            licence="MIT",
        ),
        PriorSpec(
            name="glow-cifar",
            summary="Photographs, 32 x 32 colour: a 2.1 M parameter Glow for all noise levels, with likelihoods",
            shape=(3, 32, 32),
            load="basis_glow.prior:load",
            cites=PAPERS,
            weights=WeightFile("glow-cifar.safetensors"),
            licence="MIT",
        ),
        PriorSpec(
            name="glow-lsun-church",
            summary="Churches from outside, 64 x 64 colour: a 3.1 M parameter Glow for all noise levels",
            shape=(3, 64, 64),
            load="basis_glow.prior:load",
            cites=PAPERS,
            weights=WeightFile("glow-lsun-church.safetensors"),
            licence="MIT",
        ),
        PriorSpec(
            name="glow-lsun-bedroom",
            summary="Bedrooms, 64 x 64 colour: a 3.1 M parameter Glow for all noise levels",
            shape=(3, 64, 64),
            load="basis_glow.prior:load",
            cites=PAPERS,
            weights=WeightFile("glow-lsun-bedroom.safetensors"),
            licence="MIT",
        ),
        PriorSpec(
            name="glow",
            summary="A Glow that you trained, for pictures of any shape (give it with --weights)",
            shape=None,
            load="basis_glow.prior:load",
            cites=PAPERS,
        ),
    ]


@hookimpl
def basis_commands(app: typer.Typer) -> None:
    from basis_cli.api import commands

    from .commands import convert_glow, finetune_glow, train_glow

    commands.group(app, "train").command("glow")(train_glow)
    commands.group(app, "weights convert").command("glow")(convert_glow)
    app.command("finetune-glow")(finetune_glow)
