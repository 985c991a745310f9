"""Conditional IMLE in four modules (TIM / CHIMLE, Peng et al. 2022): many answers to a picture, in one pass each.

Importing this module does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from basis_cli.api import PosteriorSpec, WeightFile, hookimpl

if TYPE_CHECKING:
    import typer

    from basis_cli.api import Task

SUMMARIES = {
    "imle-upscale16": ("upscale", "Photographs of which every pixel stood for 16 x 16"),
    "imle-colour": ("colorize", "Colours of gray photographs"),
    "imle-decompress": ("decompress", "Photographs from JPEG files of quality 5 to 10"),
    "imle-layout": ("paint", "Streets from a map of what is where, in ten classes"),
}


@hookimpl
def basis_posteriors() -> list[PosteriorSpec]:
    return [
        PosteriorSpec(
            name=name,
            summary=summary,
            task=task,
            shape=(3, 64, 64),
            any_size=True,
            load="basis_imle.model:load",
            cites=("li2018", "peng2022"),
            weights=WeightFile(f"{name}.safetensors"),
            licence="MIT",
        )
        for name, (task, summary) in SUMMARIES.items()
    ]


@hookimpl
def basis_tasks() -> list[type[Task]]:
    from .painting import TASKS

    return list(TASKS)


@hookimpl
def basis_commands(app: typer.Typer) -> None:
    from basis_cli.api import commands

    from .commands import train_imle

    commands.group(app, "train").command("imle")(train_imle)
