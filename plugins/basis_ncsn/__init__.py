"""Noise-conditional score network priors (Song & Ermon 2019). Importing this module does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from basis_cli.api import PriorSpec, WeightFile, hookimpl

if TYPE_CHECKING:
    import typer

PAPERS = ("song2019", "karras2022")


@hookimpl
def basis_priors() -> list[PriorSpec]:
    return [
        PriorSpec(
            name="ncsn-mnist",
            summary="Handwritten digits, 28 x 28 gray: a 1.8 M parameter score network",
            shape=(1, 28, 28),
            load="basis_ncsn.prior:load",
            cites=PAPERS,
            weights=WeightFile("ncsn-mnist.safetensors"),
            licence="MIT",
        ),
        PriorSpec(
            name="ncsn-cifar",
            summary="CIFAR-10's small photographs, 32 x 32 colour: a 3.7 M parameter score network",
            shape=(3, 32, 32),
            load="basis_ncsn.prior:load",
            cites=PAPERS,
            weights=WeightFile("ncsn-cifar.safetensors"),
            licence="MIT",
        ),
        PriorSpec(
            name="ncsn-photo",
            summary="Photographs of everything, of any size, in colour: a 6.6 M parameter score network",
            shape=(3, 64, 64),
            load="basis_ncsn.prior:load",
            cites=PAPERS,
            weights=WeightFile("ncsn-photo.safetensors"),
            licence="MIT",
            any_size=True,
        ),
        PriorSpec(
            name="ncsn-colour",
            summary="ncsn-photo, trained on with a part of the picture given: for lively colours of gray photographs",
            shape=(3, 64, 64),
            load="basis_ncsn.prior:load",
            cites=PAPERS,
            weights=WeightFile("ncsn-colour.safetensors"),
            licence="MIT",
            any_size=True,
        ),
        PriorSpec(
            name="ncsn-lsun-church",
            summary="Churches from outside, 64 x 64 colour: a 3.7 M parameter score network",
            shape=(3, 64, 64),
            load="basis_ncsn.prior:load",
            cites=PAPERS,
            weights=WeightFile("ncsn-lsun-church.safetensors"),
            licence="MIT",
        ),
        PriorSpec(
            name="ncsn-lsun-bedroom",
            summary="Bedrooms, 64 x 64 colour: a 3.7 M parameter score network",
            shape=(3, 64, 64),
            load="basis_ncsn.prior:load",
            cites=PAPERS,
            weights=WeightFile("ncsn-lsun-bedroom.safetensors"),
            licence="MIT",
        ),
        PriorSpec(
            name="ncsn",
            summary="A score network that you trained, for pictures of any shape (give it with --weights)",
            shape=None,
            load="basis_ncsn.prior:load",
            cites=PAPERS,
        ),
        PriorSpec(
            name="ncsn-paper-untrained",
            summary="The paper's network (RefineNet, 64 filters) with random weights: for `basis bench speed` only",
            shape=(1, 28, 28),
            load="basis_ncsn.prior:untrained",
        ),
    ]


@hookimpl
def basis_commands(app: typer.Typer) -> None:
    from basis_cli.api import commands

    from .commands import convert_ncsn, train_ncsn

    commands.group(app, "train").command("ncsn")(train_ncsn)
    commands.group(app, "weights convert").command("ncsn")(convert_ncsn)
