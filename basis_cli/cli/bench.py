"""``basis bench``: what the algorithms cost on this machine."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from .output import stderr, stdout, warnings_as_lines
from .run import AsJson, Batch, Compile, Device, Dtype, DtypeOption, Levels, Quiet, SamplerName, Steps, Weights

app = typer.Typer(no_args_is_help=True, help="Measure what the algorithms cost on this machine.")


@app.callback()
def bench() -> None:
    """Measure what the algorithms cost on this machine."""


@app.command()
def speed(
    prior: Annotated[str, typer.Option("--prior", help="The prior to separate with.")] = "ncsn-mnist",
    baseline: Annotated[
        str, typer.Option(help="The prior of Algorithm 1; what its weights are does not matter here.")
    ] = "ncsn-paper-untrained",
    k: Annotated[int, typer.Option("-k", min=1, help="Pictures in a mixture.")] = 2,
    count: Annotated[int, typer.Option(min=1, help="Separations at once, beside a single one.")] = 50,
    full: Annotated[
        bool, typer.Option("--full", help="On a CPU, too, run all 1,000 steps of Algorithm 1: half an hour.")
    ] = False,
    weights: Weights = None,
    sampler: SamplerName = "langevin",
    levels: Levels = None,
    steps: Steps = None,
    device: Device = "auto",
    dtype: DtypeOption = Dtype.auto,
    batch: Batch = None,
    compile: Compile = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Time a separation against Algorithm 1 with the paper's network, in one run on one device.

    A few minutes on a CPU. Run it on a machine that does nothing else.
    """
    from ..benchmarks import speed as measure
    from ..priors import load_prior
    from ..tasks import Sampling

    sampling = Sampling(sampler, levels, steps, device=device, dtype=dtype.value, batch=batch, compile=compile)
    ours = load_prior(prior, weights_path=weights, device=device)
    paper = load_prior(baseline, device=device)
    sampling.options([ours])
    with warnings_as_lines(), stderr.status("timing") as status:
        if quiet:
            status.stop()
        result = measure(
            ours, paper, sampling, k=k, count=count, full=full, callback=lambda doing: status.update(f"timing {doing}")
        )
    result = {"prior": prior, "baseline": baseline} | result
    if as_json:
        print(json.dumps(result))
    else:
        for table in (_speed_table(result), _scaling_table(result)):
            stdout.print(table)


def _speed_table(result: dict[str, Any]) -> Table:
    """The ratio first: how many times better ours is, then what each costs."""
    ours, paper = result["ours"], result["paper"]
    title = f"{result['prior']} against {result['baseline']}: {result['device']}, {result['threads']} threads"
    name = ours["settings"]["sampler"]
    table = Table("", "ratio", f"{name} (ours)", "Algorithm 1", title=title, title_justify="left")
    for key, label, show in (
        ("seconds_many", f"{result['count']} separations", _seconds),
        ("seconds_one", "1 separation", _seconds),
        ("evaluations", "network evaluations a component", lambda value: f"{value:,}"),
        ("evaluations_a_second", "evaluations a second", lambda value: f"{value:,.0f}"),
        ("peak_bytes", "peak memory", _bytes),
        ("outside_network", "time outside the network", lambda value: f"{value:.1%}"),
    ):
        ratio = result["ratios"].get(key)
        table.add_row(label, f"[bold]{ratio:,.1f} x[/bold]" if ratio else "", show(ours[key]), show(paper[key]))
    if paper["timed_steps"] < paper["steps"]:
        table.caption = (
            f"Algorithm 1: timed over {paper['timed_steps']:,} of {paper['steps']:,} steps, which all do the same work "
            "(--full: over all)"
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


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 100 else f"{value:.3g} s"


def _bytes(value: int | None) -> str:
    return "not known" if value is None else f"{value / 2**20:,.0f} MiB"
