"""Every table and figure of the papers, one experiment each, beside the published numbers.

BASIS is Jayaram & Thickstun (2020); NCSN is the reproduction of Song & Ermon (2019) by Matosevic, Hein & Nuzzo; cINN is
Ardizzone, Lüth, Kruse, Rother & Köthe (2019); TIM is Peng, Moazeni & Li (2022).
MS-VAE is Boukun & Lücke (2026). ``robustness``, ``uncertainty`` and ``posteriors-...`` are of no paper.
Importing this package does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basis_cli import __version__
from basis_cli.api import UnknownPriorError, UsageError, WeightsError, hookimpl

from .experiments import EXPERIMENTS as EXPERIMENTS
from .experiments import Experiment as Experiment

if TYPE_CHECKING:
    import typer
    from torch import Tensor

    from basis_cli.api import Compute, Dataset, Prior, features, posterior

STEP_SIZE = 3e-5
"""delta with which the authors' code of BASIS runs MNIST; the paper's text says 2e-5."""


@dataclass(frozen=True)
class Row:
    """One number, published and ours; ``None`` where there is none."""

    what: str
    published: float | str | None = None
    ours: float | str | None = None
    error: float | None = None
    """Standard error of ours."""
    settings: str = ""
    untouched: float | None = None
    """The same of what was given, left as it is."""
    of: str = ""
    """What was measured, where a table has a column for each of several figures of ``what``."""


@dataclass
class Report:
    """What an experiment found."""

    rows: list[Row]
    draw: Callable[[Any], None]
    """Draws the figure on a ``matplotlib.figure.Figure``."""
    why: str = ""
    """Where ours differs from what was published, and why."""
    left_out: Sequence[str] = ()
    """Parts that could not be run, and what they need."""
    size: tuple[float, float] = (7.0, 4.0)
    """Of the figure, in inches."""


@dataclass(frozen=True)
class Setup:
    """Where experiments get priors and pictures from, and how they compute."""

    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    weights: Mapping[str, Path] = field(default_factory=dict)
    """Files of weights, by prior."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """Data sets or folders of pictures for what experiments call "photographs" and "streets"."""
    say: Callable[[str], None] = lambda doing: None
    """Told what is being done."""
    sharing: Any = None
    """Processes that draw samples together, see :class:`basis_cli.api.Compute`; ``None``: this one alone."""
    partial: Path | None = None
    """Where :meth:`once` keeps what is measured until the experiment is complete; ``None``: nowhere."""

    def once(self, what: str, measure: Callable[[], Any]) -> Any:
        """``measure()``, which JSON can hold; or what it gave in a run of the same settings that was interrupted."""
        from basis_cli.api import atomically

        found = json.loads(self.partial.read_text()) if self.partial and self.partial.exists() else {}
        if what not in found:
            self.say(what)
            found[what] = measure()
            if self.partial:
                self.partial.parent.mkdir(parents=True, exist_ok=True)
                with atomically(self.partial) as written:
                    written.write_text(json.dumps(found))
        return found[what]

    @property
    def compute(self) -> Compute:
        """The device and the precision, and who shares the work."""
        from basis_cli.api import Compute

        return Compute(self.device, self.dtype, sharing=self.sharing)

    def prior(self, name: str) -> Prior:
        """The prior called ``name``.

        Raises:
            WeightsError: it is not there, or has no weights; the hint says how to give them.
        """
        from basis_cli.api import load_prior

        try:
            return load_prior(name, weights_path=self.weights.get(name), device=self.device)
        except (WeightsError, UnknownPriorError) as error:
            hint = f"train or convert one, then --weights {name}=FILE"
            raise WeightsError(f"this needs the prior {name}: {error.message}", hint) from error

    def model(self, name: str, task: str) -> Any:
        """The direct model called ``name``, which answers ``task``.

        Raises:
            WeightsError: it is not there, or has no weights; the hint says how to give them.
        """
        from basis_cli.api import load_model

        try:
            return load_model(name, task, self.weights.get(name), self.device)
        except WeightsError as error:
            raise WeightsError(f"this needs {name}: {error.message}", f"--weights {name}=FILE") from error

    def answers(self, model: Any, y: Tensor, samples: int) -> Tensor:
        """``(n, samples, c, h, w)``: answers of a direct ``model`` to each of ``y``, by the same seeds for all."""
        import torch

        from basis_cli.api import samplers

        seeds = [samplers.image_seed(self.seed, i) for i in range(samples)]
        with torch.no_grad():
            return torch.stack([model.sample(y, [seed] * len(y)) for seed in seeds], dim=1)

    def priors(self, *names: str) -> tuple[dict[str, Prior], list[str]]:
        """Those of the priors that are there, and a line for each that is not.

        Raises:
            WeightsError: none is there, or weights that were given cannot be used.
        """
        found, missing = self.optional(*names)
        if not found:
            self.prior(names[0])
        return found, missing

    def optional(self, *names: str) -> tuple[dict[str, Prior], list[str]]:
        """As :meth:`priors`, but there may be none.

        Raises:
            WeightsError: weights that were given cannot be used.
        """
        found, missing = {}, []
        for name in names:
            try:
                found[name] = self.prior(name)
            except WeightsError:
                if name in self.weights:
                    raise
                missing.append(f"{name}: there are no weights for it (--weights {name}=FILE)")
        return found, missing

    def realism(self) -> features.Realism:
        """What judges CIFAR-10's pictures: Inception, if ``weights`` has ``inception``, else this project's network.

        Raises:
            WeightsError: the weights are not there.
        """
        from basis_cli.api import features

        if "inception" in self.weights:
            return features.inception_realism(self.weights["inception"], self.data("cifar10", "train"), self.device)
        return features.cifar_realism(device=self.device)

    def data(self, name: str, split: str = "test") -> Dataset:
        """A data set, from the folder that ``BASIS_DATA`` names."""
        from basis_cli.api import datasets

        return datasets.load_dataset(name, split)

    def photographs(self, count: int) -> Tensor:
        """The first test pictures in colour, ``(n, 3, h, w)``: those of "photographs" in ``folders``, or CIFAR-10's."""
        return self.data(self.folders.get("photographs", "cifar10"))[:count]

    @property
    def album(self) -> str:
        """The name of what :meth:`photographs` are of."""
        return Path(self.folders.get("photographs", "CIFAR-10")).name

    def sampling(self, sampler: str, **options: Any) -> posterior.Sampling:
        """How to sample, with this setup's seed."""
        from basis_cli.api import posterior

        return posterior.Sampling(sampler, seed=self.seed, **options)

    def algorithm1(self, **options: Any) -> posterior.Sampling:
        """:meth:`sampling` by BASIS's Algorithm 1, with the authors' step size for MNIST."""
        return self.sampling("langevin", **{"step_size": STEP_SIZE, **options})


def reproduce(
    name: str,
    out: Path,
    *,
    full: bool = False,
    setup: Setup | None = None,
    sizes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run the experiment ``name`` and write ``out/NAME.json`` and ``out/NAME.png``.

    Rows that were measured when a run is interrupted lie in ``out/NAME.*.partial.json``, for the same call.

    Args:
        full: with the paper's own counts instead of the quick ones.
        sizes: counts that replace those.

    Returns:
        What was written as JSON: ``rows`` (see :class:`Row`), ``sizes``, what was ``cut``, ``left_out`` and ``why``.

    Raises:
        UsageError: no such experiment or no such size, or matplotlib is not installed.
        WeightsError: it needs a prior that is not there.
    """
    from basis_cli.api import atomically, resolve

    if name not in EXPERIMENTS:
        raise UsageError(f"no experiment is called {name!r}", f"known: {', '.join(EXPERIMENTS)}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("the figures need matplotlib", "pip install 'basis-cli[plot]'") from None
    experiment, setup = EXPERIMENTS[name], setup or Setup()
    sizes = sizes or {}
    if unknown := sorted(sizes.keys() - experiment.full.keys()):
        raise UsageError(f"{name} has no size {unknown[0]!r}", f"known: {', '.join(experiment.full)}")
    chosen = {**(experiment.full if full else experiment.quick), **sizes}
    given = {key: str(path) for key, path in (*setup.weights.items(), *setup.folders.items())}
    same = [__version__, setup.seed, setup.dtype, chosen, given]
    mark = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:8]
    setup = replace(setup, partial=out / f"{name}.{mark}.partial.json")
    began = time.perf_counter()
    report: Report = resolve(experiment.run)(setup, **chosen)
    record = {
        "experiment": name,
        "source": experiment.source,
        "summary": experiment.summary,
        "basis": __version__,
        "seed": setup.seed,
        "dtype": setup.dtype,
        "seconds": round(time.perf_counter() - began, 1),
        "sizes": chosen,
        "cut": [_cut(key, chosen[key], whole) for key, whole in experiment.full.items() if chosen[key] != whole],
        "left_out": list(report.left_out),
        "rows": [asdict(row) for row in report.rows],
        "why": report.why,
    }
    figure = Figure(figsize=report.size, layout="constrained")
    report.draw(figure)
    out.mkdir(parents=True, exist_ok=True)
    with atomically(out / f"{name}.png") as partial:
        figure.savefig(partial, dpi=110, format="png", bbox_inches="tight")
    with atomically(out / f"{name}.json") as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n")
    if setup.partial:
        setup.partial.unlink(missing_ok=True)
    return record


def _cut(key: str, chosen: Any, whole: Any) -> str:
    """``pairs 100 of 6,000``, ``network small, not paper``."""
    words = key.replace("_", " ")
    return f"{words} {chosen:,} of {whole:,}" if isinstance(whole, int) else f"{words} {chosen}, not {whole}"


@hookimpl
def basis_commands(app: typer.Typer) -> None:
    from .command import reproduce

    app.command()(reproduce)
