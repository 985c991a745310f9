"""What the user sees: progress, tables and errors on stderr; paths and JSON on stdout."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..errors import BasisError, InputWarning, RunWarning, UsageError

stderr = Console(stderr=True)
stdout = Console()


def fail(error: BasisError) -> None:
    """One line for an error, with its hint."""
    hint = f" [dim]({escape(error.hint)})[/dim]" if error.hint else ""
    stderr.print(f"[bold red]error:[/bold red] {escape(error.message)}{hint}", soft_wrap=True, highlight=False)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Show this project's warnings as one line each instead of Python's two with a source line."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        stderr.print(f"[yellow]warning:[/yellow] {escape(str(message))}", soft_wrap=True, highlight=False)

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
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=quiet,
        transient=True,
        speed_estimate_period=3600,  # a step on a large picture may take longer than rich's 30 s
    )


@contextmanager
def sampling_progress(batches: int = 1, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """A bar over all steps of ``batches`` batches, with noise level and residual; yields the sampler's callback."""
    with warnings_as_lines(), _bar(quiet) as progress:
        task = progress.add_task("starting")
        before, previous, last_look = 0, -1, 0.0

        def callback(*, step: int, total: int, sigma: float, x: Any, batch: int, batches: int, **state: Any) -> None:
            nonlocal before, previous, last_look
            before += total if step <= previous else 0  # a batch is over; one that is resumed begins at a later step
            previous = step
            last_step = step + 1 == total
            if quiet or (time.monotonic() - last_look < 0.2 and not last_step):
                return  # looking at x makes a GPU wait, so look rarely
            last_look = time.monotonic()
            from ..posterior.ordering import residual

            off = residual(state["operator"](x), state["y"]).mean().item() if state["y"].numel() else 0.0
            progress.update(
                task,
                completed=before + step + 1,
                total=total * max(outer * batches, 1),
                description=f"noise {sigma:.3f}  residual {off:.1f}/255",
            )

        outer = batches
        yield callback


@contextmanager
def training_progress() -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A bar over training steps with the current loss; yields the callback of :func:`basis_cli.training.fit`."""
    with warnings_as_lines(), _bar(False) as progress:
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

    drawn = Figure(figsize=(6, 3.5), layout="constrained")
    yield drawn.subplots()
    try:
        drawn.savefig(path, dpi=120)
    except OSError as error:
        raise BasisError(f"cannot write {path}: {error.strerror or error}", "is the disk full?") from error
    stderr.print(f"plot: {path}", highlight=False, soft_wrap=True)
