"""``basis evaluate``: the paper's protocols, with the paper's numbers beside ours."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from .output import figure, sampling_progress, stdout
from .run import (
    AsJson,
    Batch,
    Compile,
    Device,
    Dtype,
    DtypeOption,
    Levels,
    NoiseStd,
    PriorNames,
    Quiet,
    SamplerName,
    Samples,
    Seed,
    Select,
    SelectOption,
    Steps,
    StepSize,
    Weights,
)

app = typer.Typer(no_args_is_help=True, help="Measure a prior and a sampler as the paper does.")


class Protocol(str, Enum):
    class_agnostic = "class-agnostic"
    class_split = "class-split"


ProtocolOption = Annotated[Protocol, typer.Option(help="Any two pictures, or one of each half of the classes.")]


@app.callback()
def evaluate() -> None:
    """Measure a prior and a sampler as the paper does."""


@app.command()
def separation(
    prior: PriorNames = ["ncsn-mnist"],  # noqa: B006
    data: Annotated[str, typer.Option(help="Data set; its test split is used.")] = "mnist",
    data_dir: Annotated[Path | None, typer.Option(help="Folder of its files; default: $BASIS_DATA.")] = None,
    protocol: ProtocolOption = Protocol.class_agnostic,
    pairs: Annotated[int, typer.Option(min=1, help="Mixtures to separate; the paper has 6,000.")] = 500,
    k: Annotated[int, typer.Option("-k", min=1, help="Pictures in a mixture.")] = 2,
    samples: Samples = 1,
    select: SelectOption = Select.best,
    weights: Weights = None,
    sampler: SamplerName = "langevin",
    levels: Levels = None,
    steps: Steps = None,
    step_size: StepSize = None,
    noise_std: NoiseStd = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: DtypeOption = Dtype.auto,
    batch: Batch = None,
    compile: Compile = False,
    plot: Annotated[Path | None, typer.Option(help="Write a histogram of the PSNRs here (PNG; Figure 6).")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Separate mixtures of test pictures and report PSNR beside the baseline and the paper (Table 2)."""
    from ..datasets import load_dataset
    from ..evaluation import PAPER_PSNR, evaluate_separation
    from ..tasks import Sampling
    from ..tasks import separation as check
    from .run import _load_priors

    priors, hashes = _load_priors(prior, k, weights, device)
    check(priors, k)
    sampling = Sampling(sampler, levels, steps, step_size, noise_std, seed, device, dtype.value, batch, compile=compile)
    test = load_dataset(data, "test", data_dir)
    with sampling_progress(1, quiet) as callback:
        result = evaluate_separation(
            test,
            priors,
            protocol=protocol.value,
            pairs=pairs,
            pairs_seed=seed,
            samples=samples,
            select=select.value,
            sampling=sampling,
            callback=callback,
        )
    result = {"prior": prior, "weights_sha256": hashes} | result
    published = PAPER_PSNR[protocol.value] if (data, k) == ("mnist", 2) else {}
    if plot:
        _histogram(result, published, plot)
    if as_json:
        print(json.dumps(result | {"published": published}))
    else:
        stdout.print(_table(result, published))


def _table(result: dict[str, Any], published: dict[str, float]) -> Table:
    title = f"{result['mixtures']} {result['protocol']} mixtures of {result['k']} {result['data']} test pictures"
    table = Table("", "mean PSNR", "median", "over 25 dB", title=title, title_justify="left")
    for name, stats in (
        ("average (ours)", result["average"]),
        (f"{', '.join(result['prior'])} (ours)", result["psnr"]),
    ):
        error = f" ± {stats['standard_error']:.2f}" if stats["standard_error"] is not None else ""
        table.add_row(
            name, f"{stats['mean']:.2f}{error} dB", f"{stats['median']:.2f}", f"{stats['share_above_25_db']:.0%}"
        )
    for name, value in published.items():
        table.add_row(f"{name} (paper)", f"{value:.1f} dB", "", "", style="dim")
    table.caption = (
        f"{result['settings']['sampler']}, {result['evaluations']:.0f} evaluations, {result['seconds']:.0f} s; "
        f"residual {result['residual_8bit_rms']:.2f} of 255 levels"
    )
    return table


def _histogram(result: dict[str, Any], published: dict[str, float], path: Path) -> None:
    with figure(path) as axes:
        axes.hist(result["psnr_per_mixture"], bins=40, color="#4477aa")
        mean = result["psnr"]["mean"]
        axes.axvline(mean, color="#cc3311", label=f"mean {mean:.1f} dB")
        axes.axvline(result["average"]["mean"], color="#888888", linestyle=":", label="average")
        if "BASIS NCSN" in published:
            axes.axvline(published["BASIS NCSN"], color="#228833", linestyle="--", label="paper's mean")
        axes.set(xlabel="PSNR (dB)", ylabel="mixtures", title=f"{result['mixtures']} {result['protocol']} mixtures")
        axes.legend()
