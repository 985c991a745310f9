"""What the commands of plugins are made of: groups to join, options to share, progress to show.

Annotations here are objects, not strings as elsewhere: a plugin may derive its own options from these in a module that
does not know their names.
"""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..tree import group as group
from .groups import with_options as with_options
from .options import ALONE as ALONE
from .options import AsJson as AsJson
from .options import Device as Device
from .options import Dtype as Dtype
from .options import DtypeOption as DtypeOption
from .options import Quiet as Quiet
from .options import Seed as Seed
from .options import Workers as Workers
from .output import followers as followers
from .output import stderr as stderr
from .output import stdout as stdout
from .output import training_progress as training_progress
from .output import working as working

if TYPE_CHECKING:
    from ..data.datasets import Dataset, Squares
    from ..training import Settings


class Decay(str, Enum):
    cosine = "cosine"
    inverse_square_root = "inverse-square-root"
    constant = "constant"


class Optimizer(str, Enum):
    muon = "muon"
    adam = "adam"


Data = Annotated[str, typer.Option(help="mnist, cifar10, lsun:CATEGORY, or a folder of pictures.")]
DataSets = Annotated[
    list[str],
    typer.Option("--data", help="mnist, cifar10, lsun:CATEGORY, or a folder of pictures; several are one data set."),
]
DataDir = Annotated[Path | None, typer.Option(help="Folder of its files; default: $BASIS_DATA.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder for weights, state, metrics, samples.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures a batch, on each device.")]
OptimizerChoice = Annotated[Optimizer, typer.Option(help="muon: matrices by Muon, the rest by Adam; or adam alone.")]
Steps = Annotated[int, typer.Option(min=1, help="Batches to train on.")]
LearningRate = Annotated[float, typer.Option(help="Adam's; Muon takes 20 times as much.")]
Flip = Annotated[bool, typer.Option("--flip", help="Mirror half of the pictures.")]
SaveEvery = Annotated[int, typer.Option(min=1, help="Steps between saved states.")]
Clip = Annotated[float | None, typer.Option(min=1e-6, help="Norm to which a step's longer gradient is shortened.")]
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
        typer.Option(help="Train on squares of these sides, in turn, cut out at another place every time: 32,64."),
    ] = None
    octaves: Annotated[
        int, typer.Option(min=1, max=4, help="With --crops: so many scales, each shrunk to half of the one before.")
    ] = 1
    gray: Annotated[bool, typer.Option("--gray", help="Folders and LSUN: gray pictures.")] = False
    limit: Annotated[int | None, typer.Option(help="Folders and LSUN: use at most so many pictures.")] = None

    def of(self, split: str) -> "Squares":
        """For the library: pictures to test with are not cropped at random."""
        from ..data.datasets import Squares

        size = self.random_crop if self.random_crop and split == "train" else self.size
        return Squares(size, self.crop, self.gray, self.limit)

    def cropped(self) -> dict[str, Any]:
        """Random crops, for :class:`basis_cli.training.Settings`."""
        if self.random_crop is not None and self.random_crop < self.size:
            raise UsageError(f"no --size {self.size} can be cut from --random-crop {self.random_crop}")
        sides = whole_numbers(self.crops, "--crops") if self.crops else (self.size,) if self.random_crop else ()
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
    batch: BatchSize = 64
    learning_rate: LearningRate = 1e-3
    optimizer: OptimizerChoice = Optimizer.muon
    decay: Annotated[Decay, typer.Option(help="How the learning rate falls.")] = Decay.cosine
    clip: Clip = None
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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto"
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False

    def settings(self, flip: bool, **more: Any) -> "Settings":
        """For the library."""
        from ..training import Settings

        own = {name: value for name, value in asdict(self).items() if name not in ("device", "resume")}
        return Settings(**own | {"optimizer": self.optimizer.value, "decay": self.decay.value, "flip": flip} | more)

    def run(self, train: Callable[..., Path], *given: Any, **own: Any) -> None:
        """Call a network's ``train`` as these options say, with a bar, and print the file of its weights."""
        with training_progress() as callback:
            path = train(*given, device=self.device, resume=self.resume, callback=callback, **own)
        print(path)


@dataclass(frozen=True)
class Conversion:
    """Somebody else's checkpoint, and the file of weights to make of it."""

    checkpoint: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Somebody else's file.")]
    out: Annotated[Path, typer.Argument(dir_okay=False, help="The file to write, for example mine.safetensors.")]
    size: Annotated[
        int | None, typer.Option(min=1, help="Width and height of its pictures; default: 28 if gray, else 32.")
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if there is one.")] = False

    def check(self) -> None:
        """Raise a :class:`UsageError` if ``out`` is there and may not be replaced."""
        if self.out.exists() and not self.overwrite:
            raise UsageError(f"{self.out} exists", "--overwrite replaces it")

    def show(self, about: Mapping[str, Any]) -> None:
        """Say what was found in the checkpoint, and print where the weights are."""
        for key, value in about.items():
            stderr.print(f"{key}: {value}", soft_wrap=True)
        typer.echo(self.out)


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


def whole_numbers(text: str, option: str = "--widths") -> tuple[int, ...]:
    """The numbers in ``a,b,...``.

    Raises:
        UsageError: something else, or one below 1.
    """
    try:
        numbers = tuple(int(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise UsageError(f"{option} {text!r} is not a list of whole numbers", f"for example {option} 64,128")
    return numbers


def splits(
    names: str | Sequence[str], folder: Path | None, squares: SquareOptions | None = None
) -> "tuple[Dataset, Dataset, dict[str, str]]":
    """Train and test split of the data sets called ``names``, as one, and notes on its making for a file of weights.

    Raises:
        UsageError: accelerate, which training needs, is missing; or there is no such data set.
        InputError: its files are missing or damaged.
    """
    from ..data.datasets import joined, load_dataset
    from ..training import check_accelerate

    names = [names] if isinstance(names, str) else names

    check_accelerate()  # before pictures are read, which may take long
    train_set, test_set = (
        joined([load_dataset(name, split, folder, squares.of(split) if squares else None) for name in names])
        for split in ("train", "test")
    )
    if squares and squares.random_crop not in (None, train_set.shape[1]):
        raise UsageError(f"--random-crop is for folders and LSUN, not for {train_set.name}")
    source = f"{train_set.name}, train split, {len(train_set.images)} pictures"
    return train_set, test_set, {"data": source, "command": command_line(sys.argv[1:])}
