"""``basis evaluate``: the paper's protocols, with the paper's numbers beside ours."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..errors import UsageError
from ..tasks.separation import Mixing
from .groups import with_options
from .options import (
    ALONE,
    AsJson,
    ComputeOptions,
    Data,
    DataDir,
    DataNames,
    Device,
    InceptionOption,
    Keep,
    PriorName,
    PriorNames,
    Quiet,
    SampleOptions,
    SamplerOptions,
    Seed,
    SheetOption,
    TileOptions,
    Weights,
    Workers,
)
from .output import check_plot, figure, show, working
from .quality import quality_table, separation_tables

app = typer.Typer(no_args_is_help=True, help="Measure a prior and a sampler as the paper does.")


class Protocol(str, Enum):
    class_agnostic = "class-agnostic"
    class_split = "class-split"
    ms_vae = "ms-vae"


ProtocolOption = Annotated[
    Protocol,
    typer.Option(help="Any two pictures; one of each half of the classes; of distinct classes, matched by SSIM."),
]


@app.callback()
def evaluate() -> None:
    """Measure a prior and a sampler as the paper does."""


@app.command()
@with_options
def separation(
    sampler: SamplerOptions,
    compute: ComputeOptions,
    several: SampleOptions,
    tiles: TileOptions,
    prior: PriorNames = ["ncsn-mnist"],  # noqa: B006
    data: DataNames = ["mnist"],  # noqa: B006
    data_dir: DataDir = None,
    protocol: ProtocolOption = Protocol.class_agnostic,
    pairs: Annotated[int, typer.Option(min=1, help="Mixtures to separate; the paper has 6,000.")] = 500,
    k: Annotated[int, typer.Option("-k", min=1, help="Pictures in a mixture.")] = 2,
    alpha: Annotated[
        str | None,
        typer.Option(
            help="Mixing coefficients, a,b,... (default: 1/k each); a,b;c,d: of two mixtures, separated together."
        ),
    ] = None,
    unknown: Annotated[bool, typer.Option("--unknown", help="The coefficients are not told: --alpha auto.")] = False,
    mixing: Annotated[Mixing, typer.Option(help="How pictures are laid over each other.")] = Mixing.mean,
    size: Annotated[
        int | None, typer.Option(min=1, help="--tile, folders and LSUN: side of the pictures. (default: the prior's)")
    ] = None,
    weights: Weights = None,
    plot: Annotated[Path | None, typer.Option(help="Write a histogram of the PSNRs here (PNG; Figure 6).")] = None,
    inception: InceptionOption = None,
    sheet: SheetOption = None,
    workers: Workers = ALONE,
    keep: Keep = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Separate mixtures of test pictures and report PSNR beside the baseline and the paper (Table 2).

    With a prior and a data set for each component, also in how many mixtures each came out in its own place.
    """
    from ..evaluation.protocols import evaluate_separation, published
    from ..priors.tiles import about_tiles, tiled
    from ..tasks.separation import Separate
    from ..tasks.together import Together
    from .loading import load_pictures, load_priors, load_realism

    check_plot(plot)
    tiles.check()
    sampling, samples, select = several.chosen(Separate(k), sampler.sampling(several.noise_std))
    if bool(size) != tiles.tile:
        raise UsageError("--size and --tile are for pictures larger than the prior's", "give both")
    where, task = compute.compute(), Separate(k, alpha, mixing)
    if alpha and ";" in alpha:
        task = Together(k, alpha, mixing, observations=alpha.count(";") + 1)
    priors, hashes = load_priors(Separate(k), prior, weights, where)
    priors = tiled(priors, (size, size), tiles.overlap, tiles.pyramid) if size else priors
    tests = [load_pictures(name, "test", data_dir, priors[0].shape) for name in data]
    about = {"prior": prior, "weights_sha256": hashes, "shape": priors[0].shape, "tiles": about_tiles(priors[0])}
    with working(where, workers, quiet, keep, about) as (where, watch):
        result = evaluate_separation(
            tests,
            priors,
            protocol=protocol.value,
            task=task,
            unknown=unknown,
            pairs=pairs,
            pairs_seed=sampler.seed,
            samples=samples,
            select=select,
            sampling=sampling,
            compute=where,
            realism=load_realism(tests[0], data[0], inception, data_dir, where) if len(tests) == 1 else None,
            sheet=sheet,
            watch=watch,
        )
    usual = (len(data), alpha, mixing) == (1, None, Mixing.mean)
    beside = published(protocol.value, data[0], k) if usual else {}
    show(about | result | {"published": beside}, as_json, *separation_tables(about | result, beside))
    if plot:
        _histogram(result, beside, plot)


@app.command()
@with_options
def samples(
    sampler: SamplerOptions,
    compute: ComputeOptions,
    prior: PriorName = "ncsn-cifar",
    data: Data = "cifar10",
    data_dir: DataDir = None,
    count: Annotated[int, typer.Option("-n", "--count", min=2, help="How many.")] = 1000,
    weights: Weights = None,
    inception: InceptionOption = None,
    workers: Workers = ALONE,
    keep: Keep = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure how much samples of a prior itself look like test pictures."""
    from ..evaluation.protocols import evaluate_samples
    from ..tasks.samples import Sample
    from .loading import load_pictures, load_priors, load_realism

    where = compute.compute()
    (loaded,), hashes = load_priors(Sample(), [prior], weights, where)
    test = load_pictures(data, "test", data_dir, loaded.shape)
    realism = load_realism(test, data, inception, data_dir, where)
    if realism is None:
        what = "gray" if test.shape[0] != 3 else f"of {test.shape[2]} x {test.shape[1]} pixels"
        raise UsageError(f"no network is at hand to judge {data}'s pictures: they are {what}", "--data cifar10")
    about = {"prior": prior, "weights_sha256": hashes}
    with working(where, workers, quiet, keep, about) as (where, watch):
        result = evaluate_samples(
            test, loaded, realism, count=count, sampling=sampler.sampling(), compute=where, watch=watch
        )
    result = about | result
    show(result, as_json, quality_table(result, f"{count} samples of {prior}"))


@app.command()
@with_options
def likelihood(
    sampler: SamplerOptions,
    compute: ComputeOptions,
    prior: PriorNames = ["glow-mnist"],  # noqa: B006
    data: DataNames = ["mnist"],  # noqa: B006
    data_dir: DataDir = None,
    pictures: Annotated[int, typer.Option(min=2, help="Test pictures.")] = 1000,
    pairs: Annotated[int, typer.Option(min=0, help="Mixtures to separate; the paper has 100; 0: none.")] = 100,
    weights: Weights = None,
    workers: Workers = ALONE,
    keep: Keep = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Report bits/dim of test pictures and of separations, beside the paper (Table 1). Lower is better.

    Mixtures are of two pictures of one data set and prior, or of one each of two.
    """
    from ..evaluation.likelihood import PAPER_BITS_PER_DIM, evaluate_likelihood
    from ..tasks.separation import Separate
    from .loading import load_pictures, load_priors

    where = compute.compute()
    priors, hashes = load_priors(Separate(2), prior, weights, where)
    tests = [load_pictures(name, "test", data_dir, priors[0].shape) for name in data]
    about = {"prior": prior, "weights_sha256": hashes}
    with working(where, workers, quiet, keep, about) as (where, watch):
        result = evaluate_likelihood(
            tests, priors, pictures=pictures, pairs=pairs, sampling=sampler.sampling(), compute=where, watch=watch
        )
    published = {name: PAPER_BITS_PER_DIM[name] for name in result["bits_per_dim"] if name in PAPER_BITS_PER_DIM}
    result = about | result | {"published": published}
    title = f"{', '.join(prior)}; noise {result['sigma']:.3g}"
    table = Table("", "bits/dim", "paper", title=title, title_justify="left")
    for name, rows in result["bits_per_dim"].items():
        for what, stats in rows.items():
            ours = f"{stats['mean']:.3f} ± {stats['standard_error']:.3f}" if stats else "-"
            table.add_row(f"{name}, {what}", ours, str(published.get(name, {}).get(what, "")))
    show(result, as_json, table)


@app.command()
def gradients(
    prior: PriorName = "ncsn-mnist",
    data: Data = "mnist",
    data_dir: DataDir = None,
    pictures: Annotated[int, typer.Option(min=2, help="Test pictures.")] = 200,
    weights: Weights = None,
    levels: Annotated[int | None, typer.Option(min=1, help="Noise levels from 1 to 0.01. (default: its own)")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    plot: Annotated[Path | None, typer.Option(help="Draw them here (PNG; Figure 2).")] = None,
    as_json: AsJson = False,
) -> None:
    """Report sigma E||score|| at each noise level, which should be nearly constant where noise is high (Figure 2)."""
    from .. import samplers
    from ..compute import Compute
    from ..evaluation.likelihood import evaluate_gradients
    from ..tasks.samples import Sample
    from .loading import load_pictures, load_priors

    check_plot(plot)
    where = Compute(device)
    (loaded,), hashes = load_priors(Sample(), [prior], weights, where)
    test = load_pictures(data, "test", data_dir, loaded.shape)
    sigmas = samplers.geometric(levels) if levels else loaded.sigmas or samplers.PAPER_SIGMAS
    rows = evaluate_gradients(test, loaded, sigmas=sigmas, pictures=pictures, seed=seed, compute=where)
    about = {"prior": prior, "weights_sha256": hashes, "data": data, "split": "test", "pictures": pictures}
    table = _gradients_table(rows, f"{prior}, {pictures} {data} test pictures")
    show(about | {"seed": seed, "levels": rows}, as_json, table)
    if plot:
        _gradients_plot(rows, prior, plot)


def _gradients_table(rows: list[dict[str, float]], title: str) -> Table:
    table = Table("sigma", "sigma E||score||", title=title, title_justify="left")
    for row in rows:
        table.add_row(f"{row['sigma']:.4f}", f"{row['scaled_norm']:.3f} ± {row['standard_error']:.3f}")
    return table


def _gradients_plot(rows: list[dict[str, float]], prior: str, path: Path) -> None:
    with figure(path) as axes:
        axes.errorbar(*zip(*((row["sigma"], row["scaled_norm"], row["standard_error"]) for row in rows), strict=True))
        axes.set(xscale="log", xlabel="sigma", ylabel="sigma E||score||", ylim=(0, None), title=prior)
        axes.invert_xaxis()


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
