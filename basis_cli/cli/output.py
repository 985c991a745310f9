"""What the user sees: progress, tables and errors on stderr; paths and JSON on stdout."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from .. import __version__
from ..errors import BasisError, InputWarning, RunWarning, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from ..compute import Compute
    from ..samplers import Progress as Step
    from ..samplers import Watch
    from .options import WorkerCount

_AS_IT_IS = {"markup": False, "emoji": False, "highlight": False}  # names of files may look like rich's markup
stderr = Console(stderr=True, **_AS_IT_IS)  # type: ignore[arg-type]
stdout = Console(**_AS_IT_IS)  # type: ignore[arg-type]


class Follower(Protocol):
    """What else is told of a command's work: the page of `basis ui`."""

    def estimate(self, seconds: float) -> None:
        """About how long it will take, before it begins."""

    def step(self, progress: Step) -> None:
        """Called after each step of a sampler."""


followers: list[Follower] = []


def show(record: Any, as_json: bool, *tables: Table | str) -> None:
    """On stdout: one JSON value, or tables for the eye."""
    if as_json:
        print(json.dumps(record))
    else:
        stdout.print(*tables, sep="\n")


def fail(error: BasisError) -> None:
    """One line for an error, with its hint."""
    hint = (f" ({error.hint})", "dim") if error.hint else ""
    stderr.print(Text.assemble(("error:", "bold red"), f" {error.message}", hint), soft_wrap=True)


def tell_time(seconds: float, what: str = "") -> None:
    """One line for the eye, if it is long: of ``what``, and how long it will take."""
    for follower in followers:
        follower.estimate(seconds)
    if seconds > 10:
        minutes, hours = seconds / 60, seconds / 3600
        shown = f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"
        stderr.print(f"{what}{what and ': '}about {shown}", highlight=False)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Show this project's warnings as one line each instead of Python's two with a source line."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        stderr.print(Text.assemble(("warning:", "yellow"), f" {message}"), soft_wrap=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for ours in (InputWarning, RunWarning):
            warnings.simplefilter("always", ours)
        warnings.showwarning = show
        yield


def _bar(quiet: bool) -> Progress:
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=quiet,
        transient=True,
        speed_estimate_period=3600,  # a step on a large picture may take longer than rich's 30 s
    )


@contextmanager
def sampling_progress(quiet: bool = False) -> Iterator[Watch]:
    """A bar over all steps of all batches, with noise level and residual; yields what a runner's ``watch`` takes."""
    with _bar(quiet) as bar:
        task = bar.add_task("starting")
        last_look = 0.0

        def watch(progress: Step) -> None:
            nonlocal last_look
            for follower in followers:
                follower.step(progress)
            if quiet or (time.monotonic() - last_look < 0.2 and progress.step + 1 < progress.total):
                return  # looking at the pictures makes a GPU wait, so look rarely
            last_look = time.monotonic()
            bar.update(
                task,
                completed=progress.batch * progress.total + progress.step + 1,
                total=progress.batches * progress.total,
                description=f"noise {progress.sigma:.3f}  residual {progress.residual():.1f}/255",
            )

        yield watch


@contextmanager
def working(
    compute: Compute, workers: WorkerCount, quiet: bool, keep: Path | None = None, about: Mapping[str, Any] = {}
) -> Iterator[tuple[Compute, Watch]]:
    """``compute`` with ``workers`` in it, and what watches the samplers: with several workers, their own bar does.

    With ``keep``, a folder, samples are kept there, by names of what they are ``about``.
    """
    from ..samplers import unwatched

    with ExitStack() as stack:
        pool: Any = None
        watch: Watch = unwatched
        if workers.one:
            watch = stack.enter_context(sampling_progress(quiet))
        else:
            from .pool import Pool

            pool = stack.enter_context(closing(Pool(workers, quiet)))
        if keep is None:
            yield replace(compute, sharing=pool), watch
            return
        from ..data.files import claimed
        from ..data.images import out_folder
        from ..posterior.kept import Kept

        stack.enter_context(claimed(out_folder(keep), ["samples"], _waiting))
        made = {"basis": __version__} | dict(about)
        yield replace(compute, sharing=Kept(keep, made, pool, getattr(pool, "count", 1), watch)), unwatched


def _waiting(name: str) -> None:
    stderr.print(f"another run keeps its {name} there: waiting for it", soft_wrap=True)


@contextmanager
def sharing_progress(pictures: int, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar over pictures that others work on; yields what is told how many more are done."""
    with _bar(quiet) as bar:
        task = bar.add_task("pictures", total=pictures)
        yield lambda more: bar.update(task, advance=more)


@contextmanager
def training_progress() -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A bar over training steps with the current loss; yields the callback of :func:`basis_cli.training.fit`."""
    with _bar(False) as progress:
        task = progress.add_task("loss -", total=None)

        def callback(step: int, metrics: dict[str, float]) -> None:
            level = f"noise {metrics['sigma']:.3f}  " if "sigma" in metrics else ""
            steps = round(step / metrics["progress"])
            progress.update(task, completed=step, total=steps, description=f"{level}loss {metrics['loss']:.4f}")

        yield callback


def check_plot(path: Path | None) -> None:
    """Raise at the start what would otherwise lose a long run at its end.

    Raises:
        UsageError: matplotlib is not installed, or ``path`` is a folder.
        BasisError: nothing can be written beside it.
    """
    if path is None:
        return
    from ..data.images import out_folder

    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UsageError("--plot needs matplotlib", "pip install 'basis-cli[plot]'") from None
    if path.is_dir():
        raise UsageError(f"{path} is a folder", "--plot takes the name of a PNG file")
    out_folder(path.parent)


@contextmanager
def figure(path: Path) -> Iterator[Any]:
    """Axes to draw on; written to ``path`` as PNG at the end. :func:`check_plot` said that it can be."""
    from matplotlib.figure import Figure

    from ..data.files import unwritable

    drawn = Figure(figsize=(6, 3.5), layout="constrained")
    yield drawn.subplots()
    try:
        drawn.savefig(path, dpi=120)
    except OSError as error:
        raise unwritable(path, error) from error
    stderr.print(f"plot: {path}", soft_wrap=True)
