"""``basis bench peers``: our samplers beside those of other authors, and the page of it."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from .. import __version__
from ..errors import InputError, UsageError
from .groups import with_options
from .options import AsJson, ComputeOptions, DataDir, Quiet, Weights
from .output import show, stderr

if TYPE_CHECKING:
    from ..compute import Compute

HEAD = """# Samplers of others

Our samplers beside those of other authors, on the same network, pictures and seeds, one sample each; made from the
results in `{folder}/` by `basis bench peers`. `no prior` is what one has without a network, `default` the sampler that
the command takes with this prior when none is chosen.

The peers are written in this package from their papers, for observations without noise, and every command takes them
(`--sampler dps`). Neither the authors' own code nor deepinv was run. They have our noise levels, from 1 to 0.03, and as
many evaluations as the command says, or a few less (a derivative counts as two); `dpir` has its own eight. `guidance`
of `dps`, `zeta` of `diffpir` and `sde_steps` of `pnp-dm` were chosen on eight to twelve train pictures; our own
defaults were tuned for longer. Papers give these samplers up to a thousand evaluations of larger networks: what they
reach there, this page does not say.

All answers are moved within [0, 1] and onto what was observed. SSIM as Wang et al. (2004) have it; feature distance is
that of EfficientNet-Lite0 ([what it is](../concepts/posteriors.md#how-varied-the-samples-are)), lower is better. ± is a
standard error; with so few pictures compare the differences that each section states, which are paired.
"""
MEASURES = {"psnr": "PSNR", "ssim": "SSIM", "feature_distance": "feature distance"}
PLACES = {"psnr": 2, "ssim": 3, "feature_distance": 3}


@with_options
def peers(
    compute: ComputeOptions,
    tasks: Annotated[
        list[str] | None, typer.Argument(help="separation, half, pixels, upscaling, colors. (default: all)")
    ] = None,
    count: Annotated[int, typer.Option(min=2, help="Mixtures or pictures, the same ones for all.")] = 32,
    evaluations: Annotated[int, typer.Option(min=30, help="Of the network, for each component.")] = 100,
    only: Annotated[list[str] | None, typer.Option(help="Leave out all rows but these.")] = None,
    prior: Annotated[str | None, typer.Option(help="(default: ncsn-mnist; in colour ncsn-cifar)")] = None,
    data: Annotated[str | None, typer.Option(help="Of test pictures. (default: mnist; in colour cifar10)")] = None,
    data_dir: DataDir = None,
    weights: Weights = None,
    seed: Annotated[int, typer.Option(min=0, help="Of mixtures and samples.")] = 0,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for TASK.json; FOLDER.md shows them all.")] = Path(
        "peers"
    ),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure our samplers beside DPS, PiGDM, DDRM, DiffPIR, DPIR, DAPS, PnP-DM, MSDM and RePaint on one network.

    Rows that the folder has already are not measured again, so an interrupted run goes on. 32 pictures of all tasks
    take half an hour on a CPU core.
    """
    from ..data.files import atomically
    from ..evaluation.imagenet import imagenet
    from ..evaluation.peers import BASELINE, CONTESTS, DEFAULT, OURS, PEERS, contend
    from ..tasks.samples import Sample
    from .loading import load_pictures, load_priors

    known = [BASELINE, DEFAULT, *OURS, *PEERS]
    for given, names in ((tasks or [], list(CONTESTS)), (only or [], known)):
        if wrong := [name for name in given if name not in names]:
            raise UsageError(f"nothing to compare is called {wrong[0]!r}", ", ".join(names))
    where = compute.compute()
    network = imagenet(where.device)
    records = []
    for name in tasks or CONTESTS:
        contest = CONTESTS[name]
        source = {"prior": prior or contest.prior, "data": data or contest.data}
        (loaded,), hashes = load_priors(Sample(), [source["prior"]], weights, where)
        test = load_pictures(source["data"], "test", data_dir, loaded.shape)
        record = {"task": name, **source, "weights_sha256": hashes, "pictures": count, "evaluations": evaluations}
        record |= {"seed": seed, **_machine(where)}
        done = _measured(out / f"{name}.json", record)
        wanted = [row for row in known if row in (only or known) and row not in contest.leaves_out]
        with stderr.status(contest.title) as status:
            if quiet:
                status.stop()
            for row in wanted:
                if row not in done:
                    status.update(f"{contest.title}: {row}")
                    done[row] = contend(row, contest, test, loaded, network, count, evaluations, seed, where)
                    _keep(out / f"{name}.json", record | {"rows": [done[each] for each in known if each in done]})
        records.append(record | {"rows": [done[each] for each in known if each in done]})
    show(records, as_json, *map(_table, records))
    with atomically(page := out.with_name(out.name + ".md")) as partial:
        partial.write_text(document(out))
    stderr.print(f"written: {page}", soft_wrap=True)


def _keep(path: Path, record: dict[str, Any]) -> None:
    from ..data.files import atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomically(path) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n")


def _machine(compute: Compute) -> dict[str, Any]:
    import torch

    asked = {"device": compute.place.type, "dtype": compute.dtype}
    return asked | {"basis": __version__, "torch": torch.__version__, "threads": torch.get_num_threads()}


def _measured(path: Path, about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows in ``path`` by their names, if they were measured under the conditions ``about``."""
    if not path.exists():
        return {}
    before = _read(path)
    same = all(before.get(key) == value for key, value in about.items())
    return {row["name"]: row for row in before["rows"]} if same else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        record["rows"][0]["psnr"]
        return record  # type: ignore[no-any-return]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} is no result of basis bench peers: {error}", "another --out") from error


def lines(record: dict[str, Any]) -> list[list[str]]:
    """The cells of a table, its head first."""
    import numpy as np

    from ..evaluation.protocols import average

    found = [["", "evaluations", "PSNR (dB)", "SSIM", "feature distance", "seconds"]]
    for row in record["rows"]:
        cells = []
        for measure, places in PLACES.items():
            figures = average(np.array(row[measure]))
            cells.append(f"{figures['mean']:.{places}f} ± {figures['standard_error']:.{places}f}")
        name, settings = row["name"], row["settings"]
        name = f"default: {settings['sampler']}, {settings['levels']} levels" if name == "default" else name
        took = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        found.append([name, f"{row['evaluations']:.0f}", *cells, took])
    return found


def _table(record: dict[str, Any]) -> Table:
    from ..evaluation.peers import CONTESTS

    head, *rows = lines(record)
    table = Table(*head, title=f"{CONTESTS[record['task']].title}: {record['pictures']}", title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table


def document(folder: Path) -> str:
    """The page of the results ``folder/*.json``."""
    from ..evaluation.peers import CONTESTS

    records = [_read(path) for name in CONTESTS if (path := folder / f"{name}.json").exists()]
    return "\n".join([HEAD.format(folder=folder.name), *map(section, records)])


def section(record: dict[str, Any]) -> str:
    """A task as Markdown, and where a peer is ahead of its default."""
    from ..evaluation.peers import CONTESTS, DEFAULT, gains

    of = f"{record['pictures']} {'mixtures' if record['task'] == 'separation' else 'pictures'} of {record['data']}"
    sha = ", ".join(f"SHA-256 `{value[:8]}...`" for value in record["weights_sha256"].values())
    threads = f"{record['threads']} thread{'s' if record['threads'] > 1 else ''}"
    where = (
        f"{threads} of a CPU; seconds of the processor" if record["device"] == "cpu" else f"{record['device']}; seconds"
    )
    about = f"`{record['prior']}` ({sha}), {of}, {where} for all of them."
    same = {"count": "pictures", "evaluations": "evaluations", "seed": "seed", "dtype": "dtype"}
    command = f"basis bench peers {record['task']}" + "".join(f" --{name} {record[key]}" for name, key in same.items())
    head, *rows = ["| " + " | ".join(cells) + " |" for cells in lines(record)]
    parts = [
        f"## {CONTESTS[record['task']].title}",
        f"    {command}",
        about,
        "\n".join([head, "| --- " * 6 + "|", *rows]),
    ]
    if any(row["name"] == DEFAULT for row in record["rows"]):
        found = gains(record["rows"])
        ahead = {m: [_gain(*each) for each in found[m] if each[1] > 2 * each[2]] for m in MEASURES}
        level = {m: [f"`{name}`" for name, mean, error in found[m] if abs(mean) <= 2 * error] for m in MEASURES}
        for what, named in (("Ahead of the default", ahead), ("Not told apart from it", level)):
            said = "; ".join(f"{MEASURES[m]}: {', '.join(names) if names else 'none'}" for m, names in named.items())
            parts.append(f"{what}, by two standard errors of the paired differences: {said}.")
    wrapped = (p if p[0] in "|# " else textwrap.fill(p, 120, break_on_hyphens=False) for p in parts)
    return "\n\n".join(wrapped) + "\n"


def _gain(name: str, mean: float, error: float) -> str:
    return f"`{name}` by {mean:.3g} ± {error:.2g}"
