"""Options that several commands share, in groups (:mod:`basis_cli.cli.groups`)."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError

if TYPE_CHECKING:
    from ..compute import Compute
    from ..posterior import Sampling
    from ..tasks.base import Task


def preset(fast: bool, best: bool) -> str | None:
    """The name of the one that was chosen.

    Raises:
        UsageError: both were.
    """
    if fast and best:
        raise UsageError("--fast excludes --best", "leave out one of them")
    return "fast" if fast else "best" if best else None


class Dtype(str, Enum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class Format(str, Enum):
    png = "png"
    tiff = "tiff"
    webp = "webp"
    jpeg = "jpeg"


class Bits(str, Enum):
    """Of a sample. (Typer takes strings for choices.)"""

    eight = "8"
    sixteen = "16"


class Select(str, Enum):
    all = "all"
    best = "best"
    mode = "mode"
    mean = "mean"


Inputs = Annotated[
    list[str],
    typer.Argument(
        help="Pictures; folders or tar files of pictures; @FILE, which lists them; - reads one from stdin.",
        show_default=False,
    ),
]
PriorName = Annotated[str, typer.Option("--prior", help="The prior: what pictures look like.")]
PriorNames = Annotated[list[str], typer.Option("--prior", help="A prior for all components, or once for each.")]
Weights = Annotated[Path | None, typer.Option(help="A weights file of your own for the prior.")]
Data = Annotated[
    str, typer.Option(help="mnist, cifar10, lsun:CATEGORY, or a folder of pictures. Its test split is used.")
]
DataNames = Annotated[
    list[str],
    typer.Option(
        "--data",
        help="A data set for all components, or once for each: mnist, cifar10, lsun:CATEGORY, or a "
        "folder of pictures. Its test split is used.",
    ),
]
DataDir = Annotated[Path | None, typer.Option(help="Folder of its files; default: $BASIS_DATA.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")]
Device = Annotated[str, typer.Option(help="auto (CUDA if there is one), cpu, cuda, cuda:N, or mps (an Apple GPU).")]
DtypeOption = Annotated[Dtype, typer.Option(help="Precision of the networks; auto: bfloat16 where it is in hardware.")]
Batch = Annotated[
    int | None, typer.Option(help="Pictures worked on at once. (default: what is fast and fits into memory)")
]
StepSize = Annotated[
    float | None, typer.Option(help="langevin: the paper's delta; its authors ran MNIST at 3e-5. (default: 2e-5)")
]
NoiseOption = Annotated[
    str | None,
    typer.Option(help="Standard deviation of white noise in the picture, in intensities; auto: measured in it."),
]
Fast = Annotated[bool, typer.Option("--fast", help="Few noise levels, unless --levels says how many.")]
Best = Annotated[bool, typer.Option("--best", help="What measured best, at several times the cost.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that are there already.")]
InceptionOption = Annotated[
    Path | None,
    typer.Option(help="Weights of the Inception network (pytorch-fid's): measure FID and IS, not cifar-FID, cifar-IS."),
]
SheetOption = Annotated[Path | None, typer.Option(help="Write the first pictures, uncurated, here (PNG).")]
Keep = Annotated[
    Path | None,
    typer.Option(
        "--keep",
        metavar="FOLDER",
        help="Keep the samples here as they are drawn: the same command again draws what is missing.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of paths or tables.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress on stderr.")]


@dataclass(frozen=True)
class SamplerOptions:
    """How to sample; see :class:`basis_cli.posterior.Sampling`."""

    sampler: Annotated[
        str | None,
        typer.Option(
            "--sampler",
            help="ep, project, conjugate, mmps, langevin, ascent, or a plugin's: see `basis samplers`. "
            "(default: separate ep, sample langevin, others project)",
        ),
    ] = None
    levels: Annotated[
        int | None, typer.Option(help="Noise levels. (default: langevin, decompress 10, ep, upscale 25, others 50)")
    ] = None
    sigma_max: Annotated[float | None, typer.Option(help="Highest noise level. (default: 1, ep 1.3)")] = None
    sigma_min: Annotated[float | None, typer.Option(help="Lowest. (default: langevin .01, others .03)")] = None
    steps: Annotated[int | None, typer.Option(help="langevin: steps a level; time grows with it. (default: 100)")] = (
        None
    )
    step_size: StepSize = None
    temperature: Annotated[
        float | None,
        typer.Option(help="langevin: scales its noise's variance; a flow: its codes' deviation. (default: 1)"),
    ] = None
    overrelaxation: Annotated[
        float | None,
        typer.Option(
            help="0 to 1: likelier answers, less different ones; ep, project, conjugate. "
            "(default: ep, upscale, decompress .9)",
        ),
    ] = None
    seed: Seed = 0

    def sampling(self, noise_std: str | None = None) -> Sampling:
        """For the library.

        Raises:
            UsageError: ``noise_std`` is neither a number nor ``auto``.
        """
        from ..posterior import Sampling

        try:
            noise = noise_std if noise_std in (None, "auto") else float(str(noise_std))
        except ValueError:
            raise UsageError(f"--noise-std {noise_std!r} is not a number", "0.05, or auto") from None
        return Sampling(**asdict(self), noise_std=noise)


@dataclass(frozen=True)
class ComputeOptions:
    """Where to compute and how; see :class:`basis_cli.compute.Compute`."""

    device: Device = "auto"
    dtype: DtypeOption = Dtype.auto
    batch: Batch = None
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="torch.compile the networks: slow to begin, then faster; the same pictures but for rounding.",
        ),
    ] = False

    def compute(self) -> Compute:
        """For the library."""
        from ..compute import Compute

        return Compute(self.device, self.dtype.value, self.batch, self.compile)


ModelName = Annotated[
    str | None,
    typer.Option("--model", help="A network trained for this very task answers, instead of prior and sampler."),
]
Refine = Annotated[
    bool, typer.Option("--refine", help="--model's answers begin the sampler, at --sigma-max (.4), --levels (20).")
]


@dataclass(frozen=True)
class ModelOptions:
    """What knows the pictures, and what the answer is compared with."""

    prior: Annotated[
        list[str] | None,
        typer.Option(
            "--prior",
            help="What pictures look like: a prior for all components, or once for each. "
            "(default: separate ncsn-mnist, others ncsn-photo)",
        ),
    ] = None
    model: ModelName = None
    refine: Refine = False
    weights: Weights = None
    reference: Annotated[
        list[Path] | None,
        typer.Option(help="The true picture, of several components once for each: PSNR and order are to these."),
    ] = None


@dataclass(frozen=True)
class SampleOptions:
    """How many samples, and what to keep of them."""

    samples: Annotated[
        int | None, typer.Option("--samples", help="Samples for each picture, ranked by likelihood. (default: 1)")
    ] = None
    select: Annotated[
        Select | None,
        typer.Option(
            help="all; the most probable (best); the mean of the samples that give the same answer as the best "
            "(mode); the mean of all (mean). (default: all)"
        ),
    ] = None
    fast: Fast = False
    best: Best = False
    noise_std: NoiseOption = None

    def chosen(self, task: Task, sampling: Sampling, direct: bool = False) -> tuple[Sampling, int, str]:
        """``sampling``, how many samples, and what to keep of them: see :meth:`basis_cli.tasks.base.Task.chosen`."""
        select = self.select and self.select.value
        return task.chosen(preset(self.fast, self.best), sampling, self.samples, select, direct)


@dataclass(frozen=True)
class TileOptions:
    """Pictures larger than the prior's."""

    tile: Annotated[
        bool,
        typer.Option(
            "--tile",
            help="Work on pictures larger than the prior's in overlapping tiles, blended at every step; smaller ones "
            "need --fit.",
        ),
    ] = False
    overlap: Annotated[
        int | None, typer.Option(help="--tile: pixels that neighbouring tiles share. (default: half a tile)")
    ] = None
    pyramid: Annotated[
        bool, typer.Option("--pyramid", help="--tile at every scale: large shapes are seen in the shrunk picture.")
    ] = False

    def check(self) -> None:
        """Raise a :class:`UsageError` for what is said of tiles without --tile."""
        for option, given in (("--overlap", self.overlap is not None), ("--pyramid", self.pyramid)):
            if given and not self.tile:
                raise UsageError(f"{option} is of tiles", "add --tile")


@dataclass(frozen=True)
class WorkerCount:
    """How many processes share the work."""

    count: int = 1
    gpus: bool = False
    """One for each GPU, however many there are."""

    @property
    def one(self) -> bool:
        return self.count == 1 and not self.gpus

    def __str__(self) -> str:
        return "gpus" if self.gpus else str(self.count)


def cluster(text: str) -> str:
    """``ray``, ``ray://HOST:PORT``, ``slurm``, or ``slurm:local``, which tries it without Slurm."""
    if text in ("ray", "slurm", "slurm:local") or re.fullmatch(r"ray://[^/:]+:\d+", text):
        return text
    raise typer.BadParameter(f"{text!r} is none of ray, ray://HOST:PORT and slurm")


def worker_count(text: str | WorkerCount) -> WorkerCount:
    """``3`` or ``gpus``."""
    if isinstance(text, WorkerCount):
        return text
    if text == "gpus":
        return WorkerCount(gpus=True)
    if text.isdecimal() and int(text) > 0:
        return WorkerCount(int(text))
    raise typer.BadParameter(f"{text!r} is neither a number above 0 nor 'gpus'")


ALONE = WorkerCount()
Workers = Annotated[
    WorkerCount,
    typer.Option(
        "--workers",
        parser=worker_count,
        metavar="N|gpus",
        help="Processes that share the pictures, with their share of the cores; gpus: one for each GPU.",
    ),
]


@dataclass(frozen=True)
class OutputOptions:
    """What is written where."""

    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder for the results; or, of one input, a picture's name.")
    ] = Path("out")
    format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="Of the answers; webp is lossless, jpeg (quality 95) is not. (default: as --out ends, else png)",
        ),
    ] = None
    bits: Annotated[Bits, typer.Option("--bits", help="A sample in PNG; 16 needs pip install 'basis-cli[png16]'.")] = (
        Bits.eight
    )
    recursive: Annotated[
        bool,
        typer.Option(
            "--recursive", help="Of a folder, also the pictures in its folders; results go to the same below --out."
        ),
    ] = False
    overwrite: Overwrite = False
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out inputs whose results are there already.")
    ] = False
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Save the state after every noise level (STEM.state.safetensors, removed at the end); the same "
            "command again goes on where a killed one stopped, to the same pictures.",
        ),
    ] = False
    workers: Workers = ALONE
    cluster: Annotated[
        str | None,
        typer.Option(
            parser=cluster,
            metavar="ray|ray://HOST:PORT|slurm",
            help="Workers on other machines: actors of Ray, or array jobs of Slurm.",
        ),
    ] = None
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of --cluster slurm, by submitit's names: partition=gpu, gpus_per_node=1, time=60.",
        ),
    ] = None
    send: Annotated[
        bool,
        typer.Option("--send", help="--cluster without a common folder: pictures are sent there, and results back."),
    ] = False
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="All records in OUT/results.jsonl, a line each, instead of STEM.json.")
    ] = False
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty",
            help="Also write each pixel's standard deviation: over the samples, of separations about them.",
        ),
    ] = False
    sheet: Annotated[
        bool, typer.Option("--sheet", help="Also write input, answers and truth side by side: STEM.sheet.png.")
    ] = False
    report: Annotated[
        bool, typer.Option("--report", help="Also show everything in one HTML file: report.html, see `basis report`.")
    ] = False
    preview: Annotated[
        bool, typer.Option("--preview", help="Show input and answers in the terminal, in coarse pixels.")
    ] = False
    frames: Annotated[
        bool, typer.Option("--frames", help="Also write the state at each noise level: STEM.frames.png and .webp.")
    ] = False
    as_json: AsJson = False
    quiet: Quiet = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and say what would be done.")] = False
