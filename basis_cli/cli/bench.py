"""``basis bench``: what the algorithms cost on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..errors import UsageError
from .evaluate import Protocol, ProtocolOption
from .groups import with_options
from .options import (
    ALONE,
    AsJson,
    ComputeOptions,
    Data,
    DataDir,
    PriorName,
    PriorNames,
    Quiet,
    SamplerOptions,
    StepSize,
    Weights,
    WorkerCount,
    Workers,
)
from .output import check_plot, figure, show, stderr, working

app = typer.Typer(no_args_is_help=True, help="Measure what the algorithms cost on this machine.")


@app.callback()
def bench() -> None:
    """Measure what the algorithms cost on this machine."""


@app.command()
@with_options
def speed(
    sampler: SamplerOptions,
    compute: ComputeOptions,
    prior: PriorName = "ncsn-mnist",
    baseline: Annotated[
        str, typer.Option(help="The prior of Algorithm 1; what its weights are does not matter here.")
    ] = "ncsn-paper-untrained",
    k: Annotated[int, typer.Option("-k", min=1, help="Pictures in a mixture.")] = 2,
    count: Annotated[int, typer.Option(min=1, help="Separations at once, beside a single one.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="How often both are timed, in turn.")] = 5,
    full: Annotated[
        bool, typer.Option("--full", help="On a CPU, too, run all 1,000 steps of Algorithm 1: an hour a round.")
    ] = False,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also vary mixtures, components and levels of ours, one at a time.")
    ] = False,
    weights: Weights = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Time a separation against Algorithm 1 with the paper's network, in turn, on one device.

    Two to three minutes on one core. Run it on a machine that does nothing else.
    """
    from ..evaluation.benchmarks import speed as measure
    from ..priors import load_prior
    from ..tasks.separation import Separate

    where = compute.compute()
    sampling = sampler.sampling().over(Separate.defaults)
    ours = load_prior(prior, weights_path=weights, device=where.place)
    paper = load_prior(baseline, device=where.place)
    sampling.options([ours])
    with stderr.status("timing") as status:
        if quiet:
            status.stop()
        result = measure(
            ours,
            paper,
            sampling,
            compute=where,
            k=k,
            count=count,
            rounds=rounds,
            full=full,
            scaling=scaling,
            callback=lambda doing: status.update(Text(f"timing {doing}")),
        )
    result = {"prior": prior, "baseline": baseline} | result
    show(result, as_json, _speed_table(result), *([_scaling_table(result)] if scaling else []))


@app.command("workers")
@with_options
def sharing(
    sampler: SamplerOptions,
    compute: ComputeOptions,
    workers: Workers = WorkerCount(2),
    prior: PriorName = "ncsn-mnist",
    k: Annotated[int, typer.Option("-k", min=1, help="Pictures in a mixture.")] = 2,
    count: Annotated[int, typer.Option(min=2, help="Separations.")] = 64,
    weights: Weights = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Time separations by several workers against one process with all threads, in one run.

    Run it on a machine that does nothing else.
    """
    from ..evaluation.benchmarks import throughput
    from ..priors import load_prior

    if workers.one:
        raise UsageError("one worker is one process", "--workers 2")
    where = compute.compute()
    loaded = load_prior(prior, weights_path=weights, device=where.place)
    with working(where, workers, quiet) as (shared, _):
        assert shared.sharing
        result = throughput(loaded, sampler.sampling(), shared.sharing, compute=where, k=k, count=count)
    result = {"prior": prior, "workers": str(workers)} | result
    title = f"{count} separations, {prior}: {'the same samples' if result['same'] else 'NOT the same samples'}"
    table = Table("", "seconds", "separations a second", title=title, title_justify="left")
    for name, label in (("alone", f"one process, {result['threads']} threads"), ("shared", f"workers: {workers}")):
        table.add_row(label, _seconds(result[name]), f"{count / result[name]:.3g}")
    show(result, as_json, table)


def _speed_table(result: dict[str, Any]) -> Table:
    """The ratio first: how many times better ours is, then what each costs."""
    ours, paper = result["ours"], result["paper"]
    title = f"{result['prior']} against {result['baseline']}: {result['device']}, {result['threads']} threads"
    name = ours["settings"]["sampler"]
    table = Table("", "ratio", f"{name} (ours)", "Algorithm 1", title=title, title_justify="left")
    for key, label, shown in (
        ("seconds_many", f"{result['count']} separations", _seconds),
        ("seconds_one", "1 separation", _seconds),
        ("evaluations", "network evaluations a component", lambda value: f"{value:,}"),
        ("evaluations_a_second", "evaluations a second", lambda value: f"{value:,.0f}"),
        ("peak_bytes", "peak memory", _bytes),
        ("outside_network", "time outside the network", lambda value: f"{value:.1%}"),
    ):
        ratio = result["ratios"].get(key)
        table.add_row(label, Text(_ratio(ratio), "bold") if ratio else "", shown(ours[key]), shown(paper[key]))
    rounds = len(result["rounds"])
    table.caption = f"means of {rounds} rounds, and of their ratios with standard errors" if rounds > 1 else ""
    if paper["timed_steps"] < paper["steps"]:
        table.caption += (
            f"\nAlgorithm 1: timed over {paper['timed_steps']:,} of {paper['steps']:,} steps, which all do the same "
            "work (--full: over all)"
        )
    return table


def _scaling_table(result: dict[str, Any]) -> Table:
    table = Table("mixtures", "k", "levels", "seconds", "evaluations a second", title="scaling", title_justify="left")
    for rows in result["scaling"].values():
        for row in rows:
            cells = (row["batch"], row["k"], row["levels"], _seconds(row["seconds"]))
            table.add_row(*map(str, cells), f"{row['evaluations_a_second']:,.0f}")
        table.add_section()
    return table


def _ratio(found: dict[str, float | None]) -> str:
    error = f" ± {found['standard_error']:,.1f}" if found["standard_error"] else ""
    return f"{found['mean']:,.1f}{error} x"


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 100 else f"{value:.3g} s"


def _bytes(value: int | None) -> str:
    return "not known" if value is None else f"{value / 2**20:,.0f} MiB"


@app.command()
@with_options
def samplers(
    compute: ComputeOptions,
    prior: PriorNames = ["ncsn-mnist"],  # noqa: B006
    data: Data = "mnist",
    data_dir: DataDir = None,
    protocol: ProtocolOption = Protocol.class_agnostic,
    pairs: Annotated[int, typer.Option(min=2, help="Mixtures, the same ones for all.")] = 100,
    k: Annotated[int, typer.Option("-k", min=1, help="Pictures in a mixture.")] = 2,
    budgets: Annotated[str, typer.Option(help="Network evaluations of a component.")] = "10,20,50,100,200,500,1000",
    only: Annotated[list[str] | None, typer.Option(help="Leave out all samplers but these.")] = None,
    weights: Weights = None,
    step_size: StepSize = None,
    seed: Annotated[int, typer.Option(min=0, help="Of mixtures and samples; 0 is for reported results.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Draw PSNR against evaluations here (PNG).")] = None,
    workers: Workers = ALONE,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure PSNR against network evaluations for every sampler, alone and best of several.

    All budgets and samplers take most of an hour for 100 mixtures on two CPU cores.
    """
    from ..evaluation.benchmarks import CONTENDERS, frontier
    from ..evaluation.protocols import published
    from ..posterior import Sampling
    from ..tasks.separation import Separate, numbers
    from .loading import load_pictures, load_priors

    check_plot(plot)
    where = compute.compute()
    priors, hashes = load_priors(Separate(k), prior, weights, where)
    test = load_pictures(data, "test", data_dir, priors[0].shape)
    chosen = [contender for contender in CONTENDERS if not only or contender.name in only]
    if not chosen:
        known = "; ".join(contender.name for contender in CONTENDERS)
        raise UsageError(f"no sampler of the benchmark is called {', '.join(only or [])!r}", known)
    with stderr.status("") as status, working(where, workers, True) as (where, _):
        if quiet:
            status.stop()
        rows = frontier(
            test,
            priors,
            contenders=chosen,
            budgets=[int(budget) for budget in numbers(budgets, "--budgets") or []],
            protocol=protocol.value,
            pairs=pairs,
            pairs_seed=seed,
            sampling=Sampling(step_size=step_size, seed=seed),
            compute=where,
            callback=lambda name, budget: status.update(f"{name}, {budget} evaluations"),
        )
    if not rows:
        raise UsageError(f"--budgets {budgets} buys no sampler a run", "ep takes three levels of two evaluations")
    result = {"prior": prior, "weights_sha256": hashes, "data": data, "protocol": protocol.value, "k": k}
    result |= {"mixtures": pairs, "pairs_seed": seed, "rows": rows}
    result["published"] = published(protocol.value, data, k)
    show(result, as_json, _frontier_table(result))
    if plot:
        _draw_frontier(result, plot)


def _frontier_table(result: dict[str, Any]) -> Table:
    budgets = sorted({row["budget"] for row in result["rows"]})
    cells = {(row["contender"], row["budget"]): row for row in result["rows"]}
    title = f"mean PSNR (dB), {result['mixtures']} {result['protocol']} mixtures, against evaluations of a component"
    table = Table("", *map(str, budgets), title=title, title_justify="left")
    for name in dict.fromkeys(row["contender"] for row in result["rows"]):
        rows = [cells.get((name, budget)) for budget in budgets]
        table.add_row(name, *(f"{row['psnr']['mean']:.1f}" if row else "" for row in rows))
    error = max(row["psnr"]["standard_error"] for row in result["rows"])
    published = ", ".join(f"{name} {value}" for name, value in result["published"].items())
    table.caption = f"standard errors up to {error:.2f}" + (f"; paper: {published}" if published else "")
    return table


def _draw_frontier(result: dict[str, Any], path: Path) -> None:
    with figure(path) as axes:
        for name in dict.fromkeys(row["contender"] for row in result["rows"]):
            rows = [row for row in result["rows"] if row["contender"] == name]
            evaluations, means = [row["evaluations"] for row in rows], [row["psnr"]["mean"] for row in rows]
            axes.plot(evaluations, means, "o-", markersize=3, label=name)
        for name in ("BASIS Glow", "BASIS Glow 10x", "BASIS NCSN"):
            if name in result["published"]:
                axes.axhline(result["published"][name], color="#888888", linestyle="--", linewidth=0.8)
                axes.annotate(f"{name} (paper)", (10, result["published"][name]), fontsize=7, color="#666666")
        axes.set(xscale="log", xlabel="network evaluations of a component", ylabel="mean PSNR (dB)")
        axes.legend(fontsize=7)
