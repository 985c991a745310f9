"""``basis priors``, ``basis plugins`` and ``basis doctor``: what is there, and whether it works."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from .. import __version__, plugins, weights
from ..errors import BasisError
from .options import DataDir, Device
from .output import show, stderr, stdout

priors_app = typer.Typer(no_args_is_help=True, help="The priors that can be used.")
plugins_app = typer.Typer(no_args_is_help=True, help="The plugins that were found.")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _size(shape: tuple[int, int, int] | None, any_size: bool) -> str:
    if shape is None:
        return "any"
    c, h, w = shape
    size = "any size," if any_size else f"{w} x {h}"
    return f"{size} {'gray' if c == 1 else 'colour' if c == 3 else f'{c} channels'}"


@priors_app.command("list")
def priors_list(as_json: AsJson = False) -> None:
    """List every prior, with the plugin that offers it."""
    table = Table("prior", "pictures", "plugin", "what it models", box=None, pad_edge=False)
    rows = []
    for plugin in plugins.plugins():
        for name, spec in plugin.priors.items():
            name = f"{plugin.name}/{name}" if name in plugin.clashes else name
            table.add_row(name, _size(spec.shape, spec.any_size), plugin.name, spec.summary)
            about = {"name": name, "plugin": plugin.name, "shape": spec.shape, "any_size": spec.any_size}
            rows.append(about | {"summary": spec.summary})
    show(rows, as_json, table)


@priors_app.command("info")
def priors_info(name: str, as_json: AsJson = False) -> None:
    """Say all that is known of one prior."""
    spec = plugins.prior_spec(name)
    about = {key: value for key, value in asdict(spec).items() if key != "weights"}
    if spec.weights or spec.own:
        about["weights"] = spec.own or (spec.weights.file if spec.weights else "")
        try:
            path = weights.of(spec) or Path(spec.own)
            about["weights_path"] = str(path)
            about["weights_sha256"] = weights.sha256(path)
            stated = weights.entry(spec.weights, path) if spec.weights else None
            card = path.with_name(stated.card) if stated else path.with_suffix(".md")
            about["card"] = str(card) if card.is_file() else ""
        except BasisError as error:
            about["weights_path"] = str(error)
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in about.items():
        table.add_row(key, "any, or those of its weights" if key == "sigmas" and value is None else str(value))
    show(about, as_json, table)


@priors_app.command("check")
def priors_check(
    name: str,
    weights_path: Annotated[Path | None, typer.Option("--weights", help="A weights file of your own.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Pictures that it models: mnist, cifar10, lsun:CATEGORY, or a folder. (default: it draws some)"
        ),
    ] = None,
    data_dir: DataDir = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many pictures.")] = 8,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Say whether a prior is sound, and if not, which mistake it is. Exit 1 if it is not.

    With pictures that it models (--data) range and noise scale are checked as well.
    """
    from ..compute import choose_device
    from ..evaluation.soundness import check, separation_seconds
    from ..priors import load_prior
    from .loading import load_pictures

    where = choose_device(device)
    prior = load_prior(name, weights_path=weights_path, device=where)
    pictures = load_pictures(data, "test", data_dir, prior.shape)[:count] if data else None
    found = check(prior, pictures, count=count, device=where)
    seconds = separation_seconds(prior, found)
    table = Table("check", "measured", "expected", "", box=None, pad_edge=False)
    for finding in found.findings:
        table.add_row(finding.what, finding.measured, finding.expected, "" if finding.sound else Text("unsound", "red"))
    cost = (
        "" if seconds is None else f"{found.milliseconds:.3g} ms and {found.bytes:,} bytes a picture and evaluation; "
    )
    cost += "" if seconds is None else f"a separation into two takes about {seconds:.3g} s"
    show({"prior": name} | found.as_record() | {"separation_seconds": seconds}, as_json, table, cost, found.verdict)
    if not found.sound:
        if not data:
            stderr.print("--data with pictures that it models says more", style="dim")
        raise typer.Exit(1)


def cite(
    names: Annotated[
        list[str] | None, typer.Argument(help="Priors, models, samplers, or the record STEM.json of an answer.")
    ] = None,
) -> None:
    """Print what to cite as BibTeX: the software, its paper, and the papers of what an answer used."""
    from ..citations import bibtex

    print(bibtex(names or ()))


def samplers(as_json: AsJson = False) -> None:
    """List every sampler: what it is for, what it costs, and whether its spread is the posterior's."""
    from ..samplers import built_in

    named = dict(built_in())
    for plugin in plugins.plugins():
        named |= {f"{plugin.name}/{n}" if n in named else n: spec for n, spec in plugin.samplers.items()}
    rows = [asdict(spec) | {"name": name} for name, spec in named.items()]
    table = Table("sampler", "evaluations a step", "calibrated", "what for", box=None, pad_edge=False)
    for row in rows:
        cost = str(row["evaluations"]) if row["guided"] else "0"
        table.add_row(row["name"], cost, "yes" if row["calibrated"] else "no", row["summary"])
    show(rows, as_json, table)


def _plugin_rows() -> list[dict[str, object]]:
    return [
        {
            "name": plugin.name,
            "module": plugin.module,
            "version": plugin.version,
            **{kind: list(getattr(plugin, kind)) for kind in plugins.OFFERED},
            "clashes": plugin.clashes,
            "refused": plugin.refused,
            "error": plugin.error,
        }
        for plugin in plugins.plugins()
    ]


@plugins_app.command("list")
def plugins_list(as_json: AsJson = False) -> None:
    """List every plugin: what it offers, which names clash, and what is broken."""
    table = Table("plugin", "version", "offers", "problem", box=None, pad_edge=False)
    for plugin in plugins.plugins():
        clashes = [f"{name} is taken: use {plugin.name}/{name}" for name in plugin.clashes]
        refused = [f"{command} is there already: not replaced" for command in plugin.refused]
        problem = "; ".join(filter(None, [plugin.error, *clashes, *refused]))
        table.add_row(
            plugin.name,
            plugin.version,
            ", ".join(name for kind in plugins.OFFERED for name in getattr(plugin, kind)),
            problem,
        )
    show(_plugin_rows(), as_json, table)


def doctor(as_json: AsJson = False) -> None:
    """Check this installation: versions, devices, plugins, weights. Exit 1 if something is broken."""
    import torch

    from ..evaluation.metrics import torchmetrics
    from ..samplers import built_in

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts = {
        "basis": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "torch": torch.__version__,
        "cuda devices": ", ".join(cuda) or "none",
        "apple gpu": "yes" if torch.backends.mps.is_available() else "none",
        "cpu": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    for package in ("numpy", "pillow", "pluggy", "safetensors", "typer", "accelerate", "matplotlib", "torchmetrics"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed (an extra)"
    problems = []
    for plugin in plugins.plugins():
        if plugin.error:
            problems.append(f"plugin {plugin.name} ({plugin.module}): {plugin.error}")
        taken = [*plugin.clashes, *(name for name in plugin.samplers if name in built_in())]
        problems += [f"plugin {plugin.name}: the name {name!r} is taken" for name in taken]
        problems += [f"plugin {plugin.name}: {command} is there already: not replaced" for command in plugin.refused]
        for kind, specs in (("prior", plugin.priors), ("model", plugin.posteriors)):
            for name, spec in specs.items():  # type: ignore[attr-defined]
                if spec.weights:
                    try:
                        weights.find(spec.weights)
                    except BasisError as error:
                        problems.append(f"{kind} {name}: {error}")
    if facts["torchmetrics"] != "not installed (an extra)":
        try:
            torchmetrics("image.fid")
        except BasisError as error:
            problems.append(str(error))
    try:
        weights.find(weights.FEATURES)
    except BasisError as error:
        problems.append(f"cifar-FID: {error}")
    if as_json:
        print(json.dumps(facts | {"problems": problems}, indent=2))
    else:
        table = Table(show_header=False, box=None, pad_edge=False)
        for key, value in facts.items():
            table.add_row(key, value)
        stdout.print(table)
        for problem in problems:
            stdout.print(f"problem: {problem}", style="red", soft_wrap=True)
        if not problems:
            stdout.print("everything is in order", style="green")
    if problems:
        raise typer.Exit(1)
