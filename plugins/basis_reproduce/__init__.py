"""Every table and figure of the papers, one experiment each, beside the published numbers.

BASIS is Jayaram & Thickstun (2020); NCSN is the reproduction of Song & Ermon (2019) by Matosevic, Hein & Nuzzo; cINN is
Ardizzone, Lüth, Kruse, Rother & Köthe (2019).
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

if TYPE_CHECKING:
    import typer

    from basis_cli.api import Compute, Dataset, Prior, features, posterior

STEP_SIZE = 3e-5
"""delta with which the authors' code of BASIS runs MNIST; the paper's text says 2e-5."""


@dataclass(frozen=True)
class Experiment:
    """A table or figure, the function that makes it, and how much of it to do.

    ``run`` is ``"module:function"``, called as ``function(setup, **sizes)``; it returns a :class:`Report`. The sizes in
    ``full`` are the paper's; ``quick`` takes a minute or two on two CPU cores.
    """

    name: str
    source: str
    summary: str
    run: str
    quick: Mapping[str, Any]
    full: Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One number, published and ours; ``None`` where there is none."""

    what: str
    published: float | str | None = None
    ours: float | str | None = None
    error: float | None = None
    """Standard error of ours."""
    settings: str = ""


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
    say: Callable[[str], None] = lambda doing: None
    """Told what is being done."""
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
        """The device and the precision."""
        from basis_cli.api import Compute

        return Compute(self.device, self.dtype)

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

    def model(self, name: str) -> Any:
        """The direct model called ``name``.

        Raises:
            WeightsError: it is not there, or has no weights; the hint says how to give them.
        """
        from basis_cli.api import load_model

        verb = "colorize" if "colo" in name else "sample"
        try:
            return load_model(name, verb, self.weights.get(name), self.device)
        except WeightsError as error:
            raise WeightsError(f"this needs {name}: {error.message}", f"--weights {name}=FILE") from error

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

    def sampling(self, sampler: str, **options: Any) -> posterior.Sampling:
        """How to sample, with this setup's seed."""
        from basis_cli.api import posterior

        return posterior.Sampling(sampler, seed=self.seed, **options)

    def algorithm1(self, **options: Any) -> posterior.Sampling:
        """:meth:`sampling` by BASIS's Algorithm 1, with the authors' step size for MNIST."""
        return self.sampling("langevin", **{"step_size": STEP_SIZE, **options})


def _experiment(name: str, source: str, summary: str, run: str, **sizes: tuple[Any, Any]) -> Experiment:
    quick, full = ({key: pair[i] for key, pair in sizes.items()} for i in (0, 1))
    return Experiment(name, source, summary, f"basis_reproduce.{run}", quick, full)


_ALL = (
    _experiment(
        "table1",
        "BASIS, Table 1",
        "bits/dim of test pictures and of separations",
        "tables:table1",
        pictures=(200, 10_000),
        pairs=(4, 100),
    ),
    _experiment(
        "table2",
        "BASIS, Table 2",
        "PSNR of MNIST separations, beside the baselines",
        "tables:table2",
        baseline_pairs=(100, 6_000),
        pairs=(100, 6_000),
        langevin_pairs=(8, 6_000),
        several_pairs=(8, 6_000),
        glow_pairs=(2, 6_000),
        glow_several_pairs=(1, 6_000),
    ),
    _experiment(
        "table3",
        "BASIS, Table 3",
        "inception score and FID of CIFAR-10 separations",
        "tables:table3",
        pairs=(10, 25_000),
    ),
    _experiment(
        "table4",
        "BASIS, Table 4",
        "inception score and FID of colorized CIFAR-10 pictures",
        "tables:table4",
        pictures=(20, 50_000),
    ),
    _experiment(
        "figure2",
        "BASIS, Figure 2",
        "norms of the noisy priors' gradients",
        "separation:figure2",
        pictures=(200, 10_000),
    ),
    _experiment(
        "figure3",
        "BASIS, Figure 3",
        "what annealing and noise each contribute",
        "separation:figure3",
        pairs=(3, 1_000),
        steps=(100, 100),
    ),
    _experiment(
        "figure5",
        "BASIS, Figure 5",
        "several samples of the same mixtures",
        "separation:figure5",
        mixtures=(2, 8),
        samples=(4, 8),
    ),
    _experiment(
        "figure6",
        "BASIS, Figure 6",
        "the distribution of PSNR",
        "separation:figure6",
        pairs=(150, 5_000),
        langevin_pairs=(8, 5_000),
    ),
    _experiment(
        "figure9",
        "BASIS, Figure 9",
        "the components at every noise level",
        "separation:figure9",
        mixtures=(6, 100),
        steps=(100, 100),
    ),
    _experiment(
        "figure10",
        "BASIS, Figure 10",
        "a posterior sample, the best of several, and NCSN",
        "separation:figure10",
        mixtures=(2, 100),
        samples=(4, 10),
    ),
    _experiment(
        "ncsn-toy-manifold",
        "NCSN, Figure 1",
        "sliced score matching on CIFAR-10 with and without a little noise",
        "training:toy_manifold",
        iterations=(80, 50_000),
        batch=(16, 128),
        filters=(8, 32),
    ),
    _experiment(
        "ncsn-toy-gmm",
        "NCSN, Figures 2, 3 and 11",
        "two Gaussians: true and estimated scores, three ways to sample",
        "toy:gmm",
        samples=(1_280, 1_280),
        iterations=(4_000, 10_000),
    ),
    _experiment(
        "ncsn-baseline",
        "NCSN, Figure 4",
        "one noise level is not enough",
        "training:baseline",
        iterations=(200, 200_000),
        batch=(64, 128),
        network=("small", "paper"),
        samples=(8, 100),
    ),
    _experiment(
        "ncsn-samples",
        "NCSN, Figures 5 and 14, Table 1",
        "samples, and how they come about",
        "samples:from_noise",
        samples=(9, 100),
        steps=(100, 100),
    ),
    _experiment(
        "ncsn-inpainting",
        "NCSN, Figures 7 and 18",
        "filling in a half, and other masks",
        "samples:inpainting",
        pictures=(2, 10),
        samples=(3, 8),
        steps=(100, 100),
    ),
    _experiment(
        "ncsn-neighbours",
        "NCSN, Figures 6 and 17",
        "the nearest training pictures of samples",
        "samples:neighbours",
        samples=(6, 100),
        steps=(100, 100),
    ),
    _experiment(
        "ncsn-sensitivity",
        "NCSN, Figure 8",
        "step size and number of steps",
        "samples:sensitivity",
        samples=(3, 100),
        most_steps=(200, 1_000),
    ),
    _experiment(
        "ncsn-schedule",
        "NCSN, Figure 9",
        "linear and geometric noise levels",
        "training:schedule",
        iterations=(200, 200_000),
        batch=(64, 128),
        network=("small", "paper"),
        samples=(4, 100),
    ),
    _experiment(
        "ncsn-architecture",
        "NCSN, Figure 10",
        "a RefineNet, and a ResNet without skip connections",
        "training:architecture",
        iterations=(80, 200_000),
        batch=(32, 128),
        filters=(8, 128),
        samples=(6, 100),
        steps=(30, 100),
    ),
    _experiment(
        "cinn-mnist",
        "cINN, class-conditional MNIST",
        "digits of each class, likelihood, Bayes' rule",
        "flows:digits",
        pictures=(1_000, 10_000),
        samples=(300, 2_560),
        iterations=(400, 4_000),
    ),
    _experiment(
        "cinn-mnist-interpolation",
        "cINN, interpolation",
        "codes between two, as every digit",
        "flows:interpolation",
        steps=(12, 12),
    ),
    _experiment(
        "cinn-mnist-transfer",
        "cINN, style transfer",
        "test digits encoded, decoded as every digit",
        "flows:transfer",
        pictures=(10, 10),
    ),
    _experiment(
        "cinn-mnist-components",
        "cINN, principal components",
        "axes of the latent space",
        "flows:components",
        pictures=(2_000, 10_000),
        steps=(10, 10),
    ),
    _experiment(
        "cinn-ablation",
        "cINN, supplement 3",
        "no conditioning network, a fixed one, one trained jointly",
        "flows:ablation",
        iterations=(700, 10_000),
        batch=(32, 64),
        pictures=(300, 1_000),
        samples=(8, 8),
    ),
    _experiment(
        "cinn-interpolation",
        "cINN, supplement 4",
        "combinations of two codes, colours of photographs",
        "flows:colour_interpolation",
        pictures=(2, 8),
    ),
    _experiment(
        "cinn-colour-transfer",
        "cINN, colour transfer",
        "colours of one photograph on others",
        "flows:colour_transfer",
        pictures=(5, 10),
    ),
)
EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}


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
    same = [__version__, setup.seed, setup.dtype, chosen, {key: str(path) for key, path in setup.weights.items()}]
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
