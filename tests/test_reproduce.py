"""Every experiment runs, with tiny counts; what it writes; docs/results/reproduction.md against committed results."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from basis_reproduce import EXPERIMENTS, Setup, reproduce, samples, toy, training
from basis_reproduce.document import document, shown, write_document
from PIL import Image
from typer.testing import CliRunner

from basis_cli import plugins
from basis_cli.cli.app import app
from basis_cli.cli.options import WorkerCount
from basis_cli.errors import InputError, UsageError, WeightsError
from basis_cli.posterior import drawn

DOCS = Path(__file__).parents[1] / "docs"
TINY = {
    "table1": {"pictures": 3, "pairs": 2},
    "table2": {
        "baseline_pairs": 2,
        "pairs": 2,
        "langevin_pairs": 2,
        "several_pairs": 2,
        "glow_pairs": 2,
        "glow_several_pairs": 1,
    },
    "table3": {"pairs": 2},
    "table4": {"pictures": 2},
    "figure2": {"pictures": 3},
    "figure3": {"pairs": 2, "steps": 1},
    "figure5": {"mixtures": 2, "samples": 2},
    "figure6": {"pairs": 3, "langevin_pairs": 2},
    "figure9": {"mixtures": 2, "steps": 2},
    "figure10": {"mixtures": 2, "samples": 2},
    "ncsn-toy-manifold": {"iterations": 3, "batch": 2, "filters": 8},
    "ncsn-toy-gmm": {"samples": 20, "iterations": 3},
    "ncsn-baseline": {"iterations": 2, "batch": 2, "samples": 2},
    "ncsn-samples": {"samples": 4, "steps": 2},
    "ncsn-inpainting": {"pictures": 2, "samples": 2, "steps": 2},
    "ncsn-neighbours": {"samples": 2, "steps": 2},
    "ncsn-sensitivity": {"samples": 2, "most_steps": 3},
    "ncsn-schedule": {"iterations": 2, "batch": 2, "samples": 2},
    "ncsn-architecture": {"iterations": 2, "batch": 2, "samples": 2, "steps": 2},
    "cinn-mnist": {"pictures": 3, "samples": 3, "iterations": 2},
    "cinn-mnist-interpolation": {"steps": 2},
    "cinn-mnist-transfer": {"pictures": 2},
    "cinn-mnist-components": {"pictures": 20, "steps": 2},
    "cinn-ablation": {"iterations": 1, "batch": 2, "pictures": 2, "samples": 2},
    "cinn-colour": {"pictures": 2, "samples": 2},
    "cinn-failures": {"pictures": 3, "samples": 2, "shown": 2},
    "cinn-interpolation": {"pictures": 1},
    "cinn-colour-transfer": {"pictures": 2},
    "tim-modules": {"iterations": 1, "batch": 2, "pool": 2, "codes": 4, "pictures": 2, "samples": 2},
    "tim-samples": {"iterations": 1, "batch": 2, "pool": 2, "pictures": 2, "samples": 2},
    "tim-stability": {"iterations": 2, "batch": 2, "pool": 2, "codes": 4, "pictures": 2, "times": 2},
    "tim-table6": {"pictures": 2, "samples": 2},
    "posteriors-colorize": {"pictures": 2, "samples": 2},
    "posteriors-upscale": {"pictures": 2, "samples": 2, "factor": 4},
    "posteriors-decompress": {"pictures": 2, "samples": 2, "quality": 5},
    "robustness": {"pairs": 2, "auto_pairs": 1, "several": 1},
    "uncertainty": {"pairs": 2},
    "ms-vae": {"mixtures": 2, "best_mixtures": 1},
}


class White:
    """``N(0.5, 0.3^2)`` in every value."""

    sigmas = None

    def __init__(self, shape=(1, 28, 28), sigma=0.0):
        self.shape, self.variance = shape, 0.09 + sigma**2

    def at(self, sigma):
        return White(self.shape, sigma)

    def score(self, x):
        return (0.5 - x) / self.variance

    def log_prob(self, x):
        terms = (x - 0.5) ** 2 / self.variance + math.log(2 * math.pi * self.variance)
        return -0.5 * terms.flatten(1).sum(1)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Data sets of 20 random pictures, a closed-form prior under every name, and a step or two of sampling."""
    rng = np.random.default_rng(0)
    for split in ("train", "t10k"):
        for kind, array in (("images-idx3", rng.integers(0, 255, (20, 28, 28))), ("labels-idx1", np.arange(20) % 10)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
            (tmp_path / f"{split}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = rng.integers(0, 10, (4, 3073)).astype(np.uint8)
        records[:, 0] = (0, 1, 2, 3)  # two machines, two animals
        (tmp_path / f"{name}.bin").write_bytes(records.tobytes())
    for kind, shape in (("images", (16, 16, 3)), ("labels", (16, 16))):
        folder = tmp_path / "streets" / "test" / kind
        folder.mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 10, shape, dtype=np.uint8)).save(folder / f"{i}.png")
    monkeypatch.setattr("basis_cli.evaluation.imagenet.imagenet", lambda device: Lite())
    tiny = {n: {"channels": (2,) * n, "growth": (1,) * n, "blocks": (1,) * n} for n in (1, 4)}
    monkeypatch.setattr("basis_reproduce.implicit.MODULES", tiny)
    monkeypatch.setenv("BASIS_DATA", str(tmp_path))
    monkeypatch.setattr("basis_cli.priors.load_prior", load)
    monkeypatch.setattr("basis_cli.priors.loading.load_model", load_model)
    for what in ("BLOCKS", "WIDTHS", "FEATURES"):
        monkeypatch.setattr(f"basis_cinn.network.{what}", (1, 1, 1) if what == "BLOCKS" else (4, 4, 4))
    monkeypatch.setattr(Setup, "realism", lambda setup: Eye())
    real_sampling, real_drawn = Setup.sampling, samples.drawn

    def sampling(setup, sampler, **options):
        few = {"ep": {"levels": 2}, "langevin": {"steps": options.get("steps", 1)}}.get(sampler, {})
        return real_sampling(setup, sampler, **(options | few))

    def drawn(*arguments, steps=2, **options):
        return real_drawn(*arguments, steps=min(steps, 2), **options)

    monkeypatch.setattr(Setup, "sampling", sampling)
    for module in (samples, training):
        monkeypatch.setattr(module, "drawn", drawn)
    separation_cache()
    yield tmp_path
    separation_cache()


def separation_cache():
    from basis_cli.samplers import baselines

    baselines._dictionary.cache_clear()


class Eye:
    def __call__(self, x):
        return {"cifar-FID": float(x.std()), "cifar-IS": float(x.mean()), "cifar-IS-std": 0.0}

    def caveats(self, count):
        return []


class Lite(torch.nn.Module):
    """Pixels in place of EfficientNet-Lite0's features."""

    def forward(self, x):
        return x.flatten(1)[:, :6], x.mean((2, 3))

    def layers(self, x):
        return [torch.nn.functional.normalize(x, dim=1)]


def load_model(name, verb, weights, device):
    from basis_cinn.model import Colours, Digits
    from basis_cinn.network import ClassFlow, ColourFlow
    from basis_imle.model import Imle
    from basis_imle.network import Generator

    torch.manual_seed(0)
    if verb == "paint" or "imle" in name:
        return Imle(Generator(verb, classes=10, channels=(4, 4), growth=(2, 2), blocks=(1, 1)), (32, 32))
    if verb == "sample":
        return Digits(ClassFlow(blocks=1, width=8, directions=6))
    return Colours(ColourFlow(8, blocks=(1, 1, 1), widths=(8, 8, 8), features=(4, 4, 4)))


def load(name, **options):
    return White((3, 32, 32) if "cifar" in name or "photo" in name else (1, 28, 28))


@pytest.mark.parametrize("name", TINY)
def test_every_experiment_writes_numbers_and_a_figure(small, name):
    out = small / "out"
    setup = Setup(device="cpu", folders={"streets": str(small / "streets")})
    record = reproduce(name, out, setup=setup, sizes=TINY[name])
    assert json.loads((out / f"{name}.json").read_text()) == json.loads(json.dumps(record))
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert record["rows"]
    names = [(row["what"], row["of"]) for row in record["rows"]]
    assert len(set(names)) == len(names)
    assert record["sizes"].keys() == EXPERIMENTS[name].full.keys()
    assert bool(record["cut"]) == (record["sizes"] != EXPERIMENTS[name].full)
    assert bool(record["why"]) == (name != "figure5")
    page = EXPERIMENTS[name].page
    assert document(out).count("\n## ") == sum(each.page == page for each in EXPERIMENTS.values())


def test_mixtures_of_all_kinds_are_shown_beside_themselves(small):
    out = small / "robustness"
    record = reproduce("robustness", out, setup=Setup(device="cpu"), sizes=TINY["robustness"])
    rows = {row["what"]: row for row in record["rows"]}
    assert all(row["untouched"] > 0 and row["published"] is None for row in rows.values())
    assert rows["0.9 : 0.1, given"]["untouched"] > rows["equal"]["untouched"] + 1
    assert "coefficients within 0.02 in" in rows["0.5 : 0.5, not given (auto)"]["settings"]
    text = document(out)
    assert text.startswith("# Mixtures as people have them")
    assert "| | untouched | ours | settings |" in text
    reproduce("figure2", out, setup=Setup(device="cpu"), sizes=TINY["figure2"])
    assert document(out).count("\n# ") == 1  # the papers' page, then this


def test_posteriors_have_a_line_each_and_a_column_for_each_figure(small):
    out = small / "posteriors"
    setup = Setup(device="cpu")
    reproduce("posteriors-colorize", out, setup=setup, sizes={"pictures": 2, "samples": 3})
    text = document(out)
    assert text.startswith("# Every posterior on the same photographs")
    assert "| | PSNR, one | imagenet-FD | PSNR, mean | FWV 0.3 | FWV 0.2 | FWV 0.15 | seconds |\n| --- |" in text
    lines = [line for line in text.splitlines() if line.startswith("| ") and "±" in line]
    assert [line.split(" | ")[0] for line in lines] == ["| untouched", "| ncsn-photo", "| cinn-colour", "| imle-colour"]
    assert lines[0].count(" - ") == 5
    with pytest.raises(UsageError, match="variety of one sample"):
        reproduce("posteriors-colorize", out, setup=setup, sizes={"pictures": 2, "samples": 1})


def test_experiments_name_functions_that_exist():
    for experiment in EXPERIMENTS.values():
        assert callable(plugins.resolve(experiment.run))
        assert experiment.quick.keys() == experiment.full.keys()


@pytest.mark.parametrize("name", ["table1", "table3", "table4"])
def test_what_needs_weights_says_so(monkeypatch, tmp_path, name):
    def missing(name, **options):
        raise WeightsError(f"{name}.safetensors is missing")

    monkeypatch.setattr("basis_cli.priors.load_prior", missing)
    with pytest.raises(WeightsError, match=r"this needs the prior .*--weights .*=FILE"):
        reproduce(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_parts_without_weights_are_left_out_and_named(small, monkeypatch):
    def some(name, **options):
        if name != "ncsn-mnist":
            raise WeightsError("missing")
        return load(name)

    monkeypatch.setattr("basis_cli.priors.load_prior", some)
    record = reproduce("figure2", small / "out", setup=Setup(device="cpu"), sizes=TINY["figure2"])
    assert [line.partition(":")[0] for line in record["left_out"]] == ["glow-mnist", "ncsn-cifar", "glow-cifar"]
    table = reproduce("table2", small / "out", setup=Setup(device="cpu"), sizes=TINY["table2"])
    quoted = [row for row in table["rows"] if row["what"].endswith("BASIS Glow")]
    assert [(row["published"], row["ours"]) for row in quoted] == [(22.9, None), (22.7, None)]


def test_an_interrupted_table_keeps_its_rows(small, monkeypatch):
    from basis_cli.evaluation import protocols

    measured, real = [], protocols.evaluate_separation

    def measure(*arguments, **options):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(options["protocol"])
        return real(*arguments, **options)

    run = {"setup": Setup(device="cpu"), "sizes": TINY["table3"]}
    unbroken = reproduce("table3", small / "whole", **run)
    monkeypatch.setattr(protocols, "evaluate_separation", measure)
    with pytest.raises(KeyboardInterrupt):
        reproduce("table3", small / "out", **run)
    (kept,) = (small / "out").iterdir()
    assert len(json.loads(kept.read_text())) == 3
    with pytest.raises(KeyboardInterrupt):  # other counts, other rows
        reproduce("table3", small / "out", setup=run["setup"], sizes={"pairs": 3})
    monkeypatch.setattr(protocols, "evaluate_separation", real)
    assert reproduce("table3", small / "out", **run)["rows"] == unbroken["rows"]
    assert not kept.exists()


def test_workers_draw_the_samples_of_an_experiment(small, monkeypatch):
    """The figures are those of one process."""
    shared = []

    class Two:
        def __init__(self, workers, quiet):
            assert workers == WorkerCount(2)

        def drawn(self, posterior, y, seeds, compute, rank):
            assert compute.sharing is None
            shared.append(len(y))
            return drawn(posterior, y, seeds, compute=compute, rank=rank)

        def close(self):
            shared.append("closed")

    monkeypatch.setattr("basis_cli.cli.pool.Pool", Two)
    rows = []
    for workers in ("1", "2"):
        run = ["reproduce", "table3", "--set", "pairs=2", "--workers", workers, "-o", str(small / workers), "--json"]
        result = CliRunner().invoke(app, run)
        assert result.exit_code == 0, result.output
        rows.append(json.loads(result.stdout)["rows"])
    assert rows[0] == rows[1]
    assert shared == [2, 2, 2, 2, 2, 2, "closed"]


def test_figure2_of_white_pictures_is_the_root_of_the_dimensions_where_noise_is_high(small):
    record = reproduce("figure2", small / "out", setup=Setup(device="cpu"), sizes={"pictures": 20})
    first = record["rows"][0]
    assert first["what"].startswith("ncsn-mnist")
    assert first["ours"] == pytest.approx(28, rel=0.1)


def test_annealing_gets_the_weights_of_two_gaussians_right_and_plain_langevin_does_not():
    mixture = toy.two_gaussians()
    share = {}
    for name, sigmas, steps in (("plain", [1e-3], 300), ("annealed", toy.WORKING, 100)):
        x = toy._draw(mixture, 400, sigmas, steps, 0.1)
        share[name] = float((x.sum(1) > 0).double().mean())
        spread = (x[x.sum(1) > 0] - 5).square().mean().sqrt()
        assert float(spread) == pytest.approx((1 + sigmas[-1] ** 2) ** 0.5, rel=0.1)
    assert share["annealed"] == pytest.approx(0.8, abs=0.08)
    assert share["plain"] == pytest.approx(0.5, abs=0.08)
    with pytest.raises(toy.NotFiniteError):
        toy._draw(mixture, 4, toy.PRINTED, 100, 0.1)


def test_sliced_score_matching_learns_the_score_near_the_modes():
    mixture = toy.two_gaussians()
    network = toy._estimated(mixture, 400, 0)
    x = mixture.sample(500, torch.Generator().manual_seed(1)).float()
    true = mixture.score(x).flatten(1)
    with torch.inference_mode():
        error = (network(x.flatten(1)) - true).square().mean()
    assert float(error) < 0.5 * float(true.square().mean())


def test_errors(tmp_path):
    with pytest.raises(UsageError, match="no experiment is called 'table9'"):
        reproduce("table9", tmp_path)
    with pytest.raises(UsageError, match="table1 has no size 'pears' .known: pictures, pairs"):
        reproduce("table1", tmp_path, sizes={"pears": 3})
    with pytest.raises(InputError, match="no results"):
        document(tmp_path)
    (tmp_path / "table2.json").write_text("{}")
    with pytest.raises(InputError, match="no result of basis reproduce"):
        document(tmp_path)


def test_numbers_for_the_eye():
    assert shown(None) == "-"
    assert shown("fails") == "fails"
    assert shown(29.3) == "29.3"
    assert shown(-3124.6) == "-3,125"
    assert shown(28.042, 0.34) == "28.0 ± 0.3"
    assert shown(27.68, 0.024) == "27.68 ± 0.02"
    assert shown(-312.4, 12.0) == "-312 ± 12"


@pytest.mark.parametrize("page", ["reproduction", "robustness", "posteriors"])
def test_the_committed_document_is_that_of_the_committed_results(tmp_path, page):
    folder = tmp_path / page
    folder.mkdir()
    for path in (DOCS / "results" / page).glob("*.json"):
        (folder / path.name).write_text(path.read_text())
    assert write_document(folder).read_text() == (DOCS / "results" / f"{page}.md").read_text()
    for path in folder.glob("*.json"):
        experiment = EXPERIMENTS[path.stem]
        assert experiment.page == page
        assert json.loads(path.read_text())["sizes"].keys() == experiment.quick.keys()
    missing = {"tim-samples"}  # not run yet
    own = {name for name, experiment in EXPERIMENTS.items() if experiment.page == page}
    assert {path.stem for path in folder.glob("*.json")} >= own - missing
