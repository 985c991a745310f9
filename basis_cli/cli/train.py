"""``basis train``: fit a prior to pictures."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Train a prior on your own pictures or on a standard data set.")


class Backbone(str, Enum):
    unet = "unet"
    refinenet = "refinenet"


class Decay(str, Enum):
    cosine = "cosine"
    inverse_square_root = "inverse-square-root"
    constant = "constant"


class Optimizer(str, Enum):
    muon = "muon"
    adam = "adam"


def command_line(arguments: list[str]) -> str:
    """The command as a model card states it: without the folders of one machine, and without --resume."""
    kept, skip = ["basis"], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in ("-o", "--out", "--data-dir"):
            skip = True
        elif argument != "--resume" and not argument.startswith(("--out=", "--data-dir=", "-o")):
            kept.append(argument)
    return shlex.join(kept)


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UsageError(f"--widths {text!r} is not a list of whole numbers", "for example --widths 64,128") from None


@app.callback()
def train() -> None:
    """Train a prior on your own pictures or on a standard data set."""


@app.command()
def ncsn(
    data: Annotated[str, typer.Option(help="Data set: mnist.")] = "mnist",
    data_dir: Annotated[Path | None, typer.Option(help="Folder of its files; default: $BASIS_DATA.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for weights, state, metrics, samples.")] = Path(
        "runs/ncsn"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Batches to train on.")] = 18_000,
    batch: Annotated[int, typer.Option(min=1, help="Pictures a batch, on each device.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Adam's; Muon takes 20 times as much.")] = 1e-3,
    optimizer: Annotated[Optimizer, typer.Option(help="muon learns faster; adam is the paper's.")] = Optimizer.muon,
    decay: Annotated[Decay, typer.Option(help="How the learning rate falls.")] = Decay.cosine,
    backbone: Annotated[Backbone, typer.Option(help="unet: small and fast; refinenet: the paper's.")] = Backbone.unet,
    widths: Annotated[str, typer.Option(help="unet: channels at each resolution, highest first.")] = "64,128",
    blocks: Annotated[int, typer.Option(min=1, help="unet: residual blocks at each resolution.")] = 2,
    patch: Annotated[int, typer.Option(min=1, help="unet: side of the pixel blocks it works on.")] = 2,
    filters: Annotated[int, typer.Option(min=8, help="refinenet: base channels (64 MNIST, 128 CIFAR-10).")] = 64,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror half of the pictures.")] = False,
    bf16: Annotated[bool, typer.Option(help="Compute in bfloat16 where that is safe.")] = True,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile the network first.")] = False,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between saved states.")] = 500,
    sheet_every: Annotated[int, typer.Option(min=1, help="Steps between sample sheets and held-out errors.")] = 2_000,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same run.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    start_from: Annotated[Path | None, typer.Option(help="Weights to begin with instead of random ones.")] = None,
) -> None:
    """Train a noise-conditional score network by denoising score matching."""
    from basis_ncsn.training import train as train_ncsn

    from ..datasets import load_dataset
    from ..training import Settings
    from .output import training_progress

    config = (
        {"widths": _integers(widths), "blocks": blocks, "patch": patch}
        if backbone is Backbone.unet
        else {"filters": filters}
    )
    settings = Settings(
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        optimizer=optimizer.value,
        decay=decay.value,
        seed=seed,
        bf16=bf16,
        compile=compile,
        flip=flip,
        save_every=save_every,
        sheet_every=sheet_every,
    )
    train_set, test_set = (load_dataset(data, split, data_dir) for split in ("train", "test"))
    command = command_line(sys.argv[1:])
    with training_progress(steps) as callback:
        path = train_ncsn(
            train_set,
            test_set,
            out,
            settings,
            backbone=backbone.value,
            config=config,
            device=device,
            resume=resume,
            start_from=start_from,
            notes={"data": f"{data}, train split, {len(train_set.images)} pictures", "command": command},
            callback=callback,
        )
    print(path)
