"""``basis train``: fit a prior to pictures."""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .options import with_options

if TYPE_CHECKING:
    from ..data.datasets import Dataset, Squares
    from ..training import Settings

app = typer.Typer(no_args_is_help=True, help="Train a prior on your own pictures or on a standard data set.")


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


class Decay(str, Enum):
    cosine = "cosine"
    inverse_square_root = "inverse-square-root"
    constant = "constant"


class Optimizer(str, Enum):
    muon = "muon"
    adam = "adam"


Data = Annotated[str, typer.Option(help="mnist, cifar10, lsun:CATEGORY, or a folder of pictures.")]
LabelledData = Annotated[str, typer.Option("--data", help="Data set: mnist or cifar10.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of its files; default: $BASIS_DATA.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder for weights, state, metrics, samples.")]
Steps = Annotated[int, typer.Option(min=1, help="Batches to train on.")]
LearningRate = Annotated[float, typer.Option(help="Adam's; Muon takes 20 times as much.")]
Flip = Annotated[bool, typer.Option("--flip", help="Mirror half of the pictures.")]
SaveEvery = Annotated[int, typer.Option(min=1, help="Steps between saved states.")]
StartFrom = Annotated[Path | None, typer.Option(help="Weights to begin with instead of random ones.")]


@dataclass(frozen=True)
class SquareOptions:
    """How pictures of a folder or of LSUN are made alike; see :class:`basis_cli.data.datasets.Squares`."""

    size: Annotated[
        int, typer.Option(help="Folders and LSUN: the shorter side is shrunk to it, the middle cut out.")
    ] = 64
    crop: Annotated[
        int | None, typer.Option(help="Folders and LSUN: cut so many pixels from the middle first (CelebA: 140).")
    ] = None
    random_crop: Annotated[
        int | None,
        typer.Option(help="Folders and LSUN: shrink to this instead, and cut out --size at another place every time."),
    ] = None
    crops: Annotated[
        str | None,
        typer.Option(help="Folders and LSUN: train on squares of these sides, in turn, cut at random: 32,64."),
    ] = None
    octaves: Annotated[
        int, typer.Option(min=1, max=4, help="With --crops: so many scales, each shrunk to half of the one before.")
    ] = 1
    gray: Annotated[bool, typer.Option("--gray", help="Folders and LSUN: gray pictures.")] = False
    limit: Annotated[int | None, typer.Option(help="Folders and LSUN: use at most so many pictures.")] = None

    def of(self, split: str) -> Squares:
        """For the library: pictures to test with are not cropped at random."""
        from ..data.datasets import Squares

        size = self.random_crop if self.random_crop and split == "train" else self.size
        return Squares(size, self.crop, self.gray, self.limit)

    def cropped(self) -> dict[str, Any]:
        """Random crops, for :class:`basis_cli.training.Settings`."""
        if self.random_crop is not None and self.random_crop < self.size:
            raise UsageError(f"no --size {self.size} can be cut from --random-crop {self.random_crop}")
        sides = _integers(self.crops, "--crops") if self.crops else (self.size,) if self.random_crop else ()
        if self.octaves > 1 and not sides:
            raise UsageError("--octaves are scales of random crops", "--crops 32,64")
        return {"crops": sides, "octaves": self.octaves}


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; see :class:`basis_cli.training.Settings`."""

    steps: Steps = 18_000
    hours: Annotated[
        float | None, typer.Option(min=0.001, help="End after so many hours instead, the learning rate by the clock.")
    ] = None
    batch: Annotated[int, typer.Option(min=1, help="Pictures a batch, on each device.")] = 64
    learning_rate: LearningRate = 1e-3
    optimizer: Annotated[Optimizer, typer.Option(help="muon: matrices by Muon, the rest by Adam; or adam alone.")] = (
        Optimizer.muon
    )
    decay: Annotated[Decay, typer.Option(help="How the learning rate falls.")] = Decay.cosine
    bf16: Annotated[bool, typer.Option(help="Compute in bfloat16 where that is safe and in hardware.")] = True
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile the network first.")] = False
    save_every: SaveEvery = 500
    sheet_every: Annotated[int, typer.Option(min=1, help="Steps between sample sheets and held-out measurements.")] = (
        2_000
    )
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="Stop after so many measurements without a better one, and keep the best weights."),
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same run.")] = 0
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto"
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False

    def settings(self, flip: bool, **more: Any) -> Settings:
        """For the library."""
        from ..training import Settings

        own = {name: value for name, value in asdict(self).items() if name not in ("device", "resume")}
        return Settings(**own | {"optimizer": self.optimizer.value, "decay": self.decay.value, "flip": flip} | more)


@dataclass(frozen=True)
class ClassifierTraining(TrainingOptions):
    """With the defaults of a classifier."""

    steps: Steps = 1_100
    batch: Annotated[int, typer.Option(min=1, help="Pictures a batch, on each device.")] = 500
    save_every: SaveEvery = 100
    sheet_every: Annotated[int, typer.Option("--test-every", min=1, help="Steps between held-out measurements.")] = 200


@dataclass(frozen=True)
class Finetuning(TrainingOptions):
    """With the defaults of a level of a ladder."""

    steps: Annotated[int, typer.Option(min=1, help="Batches to train on at each level.")] = 2_000
    learning_rate: LearningRate = 3e-4


def command_line(arguments: list[str]) -> str:
    """The command as a model card states it: without the folders of one machine, and without --resume."""
    kept, skip = ["basis"], False
    for argument in arguments:
        if skip:
            skip = False
        elif kept[-1] in ("--start-from", "--data"):
            kept.append(Path(argument).name)
        elif argument.startswith(("--start-from=", "--data=")):
            option, _, path = argument.partition("=")
            kept.append(f"{option}={Path(path).name}")
        elif argument in ("-o", "--out", "--data-dir"):
            skip = True
        elif argument != "--resume" and not argument.startswith(("--out=", "--data-dir=", "-o")):
            kept.append(argument)
    return shlex.join(kept)


def _integers(text: str, option: str = "--widths") -> tuple[int, ...]:
    try:
        numbers = tuple(int(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise UsageError(f"{option} {text!r} is not a list of whole numbers", f"for example {option} 64,128")
    return numbers


def _sigmas(text: str) -> tuple[float, ...]:
    """Noise levels: so many between 0.01 and 1, or those listed."""
    from ..samplers import geometric

    try:
        sigmas = geometric(int(text)) if text.isdecimal() else tuple(float(number) for number in text.split(","))
    except ValueError:
        sigmas = ()
    if not sigmas or not all(0 < sigma < math.inf for sigma in sigmas):
        hint = "say how many levels, --sigmas 10, or which, --sigmas 0.01,0.1,1.0"
        raise UsageError(f"--sigmas {text!r} is no ladder of noise levels", hint)
    return sigmas


def _splits(
    name: str, folder: Path | None, squares: SquareOptions | None = None
) -> tuple[Dataset, Dataset, dict[str, str]]:
    """Train and test split, and what a file of weights says of its making."""
    from ..data.datasets import load_dataset
    from .output import warnings_as_lines

    with warnings_as_lines():
        train_set, test_set = (
            load_dataset(name, split, folder, squares.of(split) if squares else None) for split in ("train", "test")
        )
    if squares and squares.random_crop not in (None, train_set.shape[1]):
        raise UsageError(f"--random-crop is for folders and LSUN, not for {name}")
    source = f"{train_set.name}, train split, {len(train_set.images)} pictures"
    return train_set, test_set, {"data": source, "command": command_line(sys.argv[1:])}


@app.callback()
def train() -> None:
    """Train a prior on your own pictures or on a standard data set."""


@app.command()
@with_options
def ncsn(
    training: TrainingOptions,
    squares: SquareOptions,
    data: Data = "mnist",
    data_dir: DataDir = None,
    out: Out = Path("runs/ncsn"),
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
    filters: Annotated[
        int, typer.Option(min=8, help="refinenet, resnet: base channels (64 MNIST, 128 CIFAR-10).")
    ] = 64,
    flip: Flip = False,
    start_from: StartFrom = None,
) -> None:
    """Train a noise-conditional score network by denoising or sliced score matching."""
    from basis_ncsn.network import ladder
    from basis_ncsn.training import train as train_ncsn

    from .output import training_progress

    config: dict[str, Any] = {"filters": filters}
    if backbone is Backbone.unet:
        config = {"widths": _integers(widths), "blocks": blocks, "patch": patch}
        if not attention:
            config["attention"] = False
    if schedule or levels:
        spacing, count = schedule.value if schedule else "geometric", levels or 10
        begin = 0.01 if count == 1 else 1.0
        if backbone is Backbone.unet:
            config["sigmas"] = ladder(spacing, count, begin)
        else:
            config |= {"schedule": spacing, "levels": count, "sigma_begin": begin}
    settings = training.settings(flip, **squares.cropped())
    train_set, test_set, notes = _splits(data, data_dir, squares)
    with training_progress() as callback:
        path = train_ncsn(
            train_set,
            test_set,
            out,
            settings,
            backbone=backbone.value,
            config=config,
            objective=loss.value,
            device=training.device,
            resume=training.resume,
            start_from=start_from,
            notes=notes,
            callback=callback,
        )
    print(path)


@app.command()
@with_options
def glow(
    training: TrainingOptions,
    squares: SquareOptions,
    data: Data = "mnist",
    data_dir: DataDir = None,
    out: Out = Path("runs/glow"),
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
    flip: Flip = False,
    start_from: StartFrom = None,
) -> None:
    """Train a Glow by maximum likelihood; basis finetune-glow makes a ladder of noise levels of it."""
    from basis_glow.training import train as train_glow

    from .output import training_progress

    if directions and not gaussians:
        raise UsageError("--directions are those of Gaussians", "--gaussians 100")
    settings = training.settings(flip, **squares.cropped())
    train_set, test_set, notes = _splits(data, data_dir, squares)
    with training_progress() as callback:
        path = train_glow(
            train_set,
            test_set,
            out,
            settings,
            config={
                "levels": levels,
                "depth": depth,
                "width": width,
                "conditional": conditional,
                "whiten": whiten,
                "smooth": smooth,
                "gaussians": gaussians,
            }
            | ({"directions": directions} if directions else {}),
            device=training.device,
            resume=training.resume,
            start_from=start_from,
            score_matching=score_matching,
            notes=notes,
            callback=callback,
        )
    print(path)


@app.command()
@with_options
def features(
    training: ClassifierTraining,
    data: LabelledData = "cifar10",
    data_dir: DataDir = None,
    out: Out = Path("runs/features"),
    widths: Annotated[str, typer.Option(help="Channels of the stages; the last is the number of features.")] = (
        "64,224,256"
    ),
) -> None:
    """Train the classifier whose features cifar-FID and cifar-IS compare (needs a data set with labels, in colour)."""
    from ..evaluation.features import train as train_features
    from .output import training_progress

    settings = training.settings(True, warmup=50)
    stages = _integers(widths)
    train_set, test_set, notes = _splits(data, data_dir)
    if not train_set.labels.any():
        raise UsageError(f"{data} says nothing of classes", "--data cifar10")
    with training_progress() as callback:
        path = train_features(
            train_set,
            test_set,
            out,
            settings,
            widths=stages,
            device=training.device,
            resume=training.resume,
            notes=notes,
            callback=callback,
        )
    print(path)


@with_options
def finetune_glow(
    training: Finetuning,
    squares: SquareOptions,
    prior: Annotated[
        str, typer.Option("--prior", help="The Glow to start from, at no noise: any without whitening.")
    ] = "glow-mnist",
    start_from: Annotated[Path | None, typer.Option(help="Its weights, if they are a file of your own.")] = None,
    sigmas: Annotated[str, typer.Option(help="How many noise levels from 0.01 to 1, or a list a,b,...")] = "10",
    data: Data = "mnist",
    data_dir: DataDir = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the ladder, one file a level.")] = Path(
        "runs/glow-ladder"
    ),
    flip: Flip = False,
) -> None:
    """Fine-tune a Glow level by level from no noise on, each from the one below: the paper's appendix A.1.

    Writes a file for each level and ladder.json, which --weights takes. A level that fails is tried again with a
    smaller learning rate.
    """
    from basis_glow.training import finetune

    from .. import weights
    from ..api import WeightFile
    from ..plugins import prior_spec
    from .output import stderr, training_progress

    ladder = _sigmas(sigmas)
    spec = prior_spec(prior)
    if spec.weights is None and start_from is None:
        raise UsageError(f"{prior} has no weights of its own", "give --start-from FILE; basis train glow makes one")
    settings = training.settings(flip, **squares.cropped())
    train_set, test_set, notes = _splits(data, data_dir, squares)
    with training_progress() as callback:
        path = finetune(
            train_set,
            test_set,
            out,
            settings,
            start_from=weights.find(spec.weights or WeightFile(""), start_from),
            sigmas=ladder,
            device=training.device,
            resume=training.resume,
            notes=notes,
            callback=callback,
            report=lambda text: stderr.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True),
        )
    print(path)
