"""``basis sweep``: one command with every combination of some options, each run in a process of its own."""

from __future__ import annotations

import itertools
import json
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from .. import __version__
from ..errors import BasisError, InputError, UsageError
from .options import AsJson, Quiet
from .output import check_plot, fail, figure, sharing_progress, show

SHOWN = ("psnr.mean", "mean.psnr.mean", "evaluations", "seconds")
"""What a table shows of the runs' JSON, where it is there."""


def sweep(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=A,B... -- COMMAND", help="Options and their values, and the command.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="A line of JSON for each run.")] = Path("sweep.jsonl"),
    workers: Annotated[int, typer.Option(min=1, help="Runs at once.")] = 1,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--show",
            metavar="KEY",
            help="What to show of the runs' JSON: psnr.mean. (default: PSNR, evaluations, seconds)",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the first of them over the last here (PNG), and what no run is better than."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run a command that has --json with every combination of some options: quality against cost.

    basis sweep levels=10,25,50 overrelaxation=0,.9 -- evaluate separation --pairs 100

    A run that --out has already is not done again, so an interrupted sweep goes on.
    """
    grid, command = _divided(arguments)
    check_plot(plot)
    if plot and columns and len(columns) < 2:
        raise UsageError("--plot draws one quantity over another", "--show psnr.mean --show seconds")
    done = _read(out)
    runs = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    keys = [_key(command, run) for run in runs]
    missing = [run for run, key in zip(runs, keys, strict=True) if key not in done]
    failed = 0
    with sharing_progress(len(missing), quiet) as advance:
        for run, result in _results(command, missing, workers):
            advance(1)
            if isinstance(result, BasisError):
                fail(result)
                failed += 1
                continue
            done[_key(command, run)] = record = {"basis": __version__, "command": command, "sweep": run} | result
            _append(out, record)
    found = [done[key] for key in keys if key in done]
    shown = columns or [name for name in SHOWN if any(value_of(record["result"], name) is not None for record in found)]
    show({"runs": found}, as_json, _table(found, list(grid), shown))
    if plot and found and shown:
        _plot(found, shown, plot)
    if failed:
        raise typer.Exit(1)


def _divided(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The options with their values, and the command."""
    swept = list(itertools.takewhile(lambda word: "=" in word and not word.startswith("-"), arguments))
    command = list(arguments[len(swept) :])
    grid = {name: values.split(",") for name, _, values in (word.partition("=") for word in swept)}
    if not grid or not command or len(grid) < len(swept) or not all(all(values) for values in grid.values()):
        raise UsageError("a sweep is of options and a command", "basis sweep levels=10,50 -- evaluate separation")
    if taken := [name for name in grid if f"--{name}" in command]:
        raise UsageError(f"--{taken[0]} is swept and in the command", "leave out one of them")
    return grid, command


def _key(command: Sequence[str], run: dict[str, str]) -> str:
    """What tells a run from others."""
    return json.dumps([__version__, list(command), sorted(run.items())])


def _read(out: Path) -> dict[str, dict[str, Any]]:
    """The runs that are done; a line that was cut off by the end of its run is removed."""
    if not out.exists():
        return {}
    try:
        text = out.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        records = [json.loads(line) for line in whole.splitlines()]
        done = {
            json.dumps([record["basis"], record["command"], sorted(record["sweep"].items())]): record
            for record in records
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{out} is not of a sweep: {error}", "another --out") from error
    if whole != text:
        out.write_text(whole, encoding="utf-8")
    return done


def _append(out: Path, record: dict[str, Any]) -> None:
    from ..data.files import unwritable

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise unwritable(out, error) from error


def _results(
    command: Sequence[str], runs: Sequence[dict[str, str]], workers: int
) -> Iterator[tuple[dict[str, str], dict[str, Any] | BasisError]]:
    """What each run printed, as it ends."""
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(_result, command, run): run for run in runs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:  # the processes have had Ctrl-C too
            pool.shutdown(cancel_futures=True)
            raise


def _result(command: Sequence[str], run: dict[str, str]) -> dict[str, Any] | BasisError:
    words = [*command, *(f"--{name}={value}" for name, value in run.items()), "--json"]
    began = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-m", "basis_cli", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        return InputError(f"basis {shlex.join(words)}: {reason.removeprefix('error: ')}")
    try:
        result = json.loads(process.stdout)
    except ValueError:
        return InputError(f"basis {shlex.join(words)} prints no JSON")
    return {"process_seconds": round(time.perf_counter() - began, 1), "result": result}


def value_of(result: Any, name: str) -> Any:
    """``result["psnr"]["mean"]`` for ``psnr.mean``; ``None`` if it is not there."""
    for key in name.split("."):
        result = result.get(key) if isinstance(result, dict) else None
    return result


def _table(found: Sequence[dict[str, Any]], swept: Sequence[str], shown: Sequence[str]) -> Table:
    table = Table(*swept, *shown)
    for record in found:
        values = [value_of(record["result"], name) for name in shown]
        numbers = [f"{value:.5g}" if isinstance(value, (int, float)) else str(value or "") for value in values]
        table.add_row(*record["sweep"].values(), *numbers)
    return table


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those ``(cost, quality)`` that none of no higher cost is as good as or better than, by cost."""
    best, kept = -math.inf, []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if quality > best:
            best = quality
            kept.append((cost, quality))
    return kept


def _plot(found: Sequence[dict[str, Any]], shown: Sequence[str], path: Path) -> None:
    quality, cost = shown[0], shown[-1]
    points = [(value_of(record["result"], cost), value_of(record["result"], quality)) for record in found]
    if not all(isinstance(value, (int, float)) for point in points for value in point):
        raise UsageError(f"not all runs have numbers {quality} and {cost}", "--show names two")
    with figure(path) as axes:
        for point, record in zip(points, found, strict=True):
            axes.annotate(
                " ".join(record["sweep"].values()), point, fontsize=7, xytext=(4, 2), textcoords="offset points"
            )
        axes.scatter(*zip(*points, strict=True), color="#4477aa")
        axes.step(*zip(*frontier(points), strict=True), where="post", color="#cc3311", label="no run is better")
        axes.set(xlabel=cost, ylabel=quality)
        axes.legend()
