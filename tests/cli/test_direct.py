"""A network that was trained to answer one task, from a plugin: ``--model``, instead of a prior and a sampler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import basis_cli
from basis_cli.errors import UsageError

SOURCE = """
    from basis_cli.api import PosteriorSpec, hookimpl


    @hookimpl
    def basis_posteriors():
        return [PosteriorSpec("tint", "gray pictures in one tint", "colorize", (3, 8, 8), load="tinting:load")]


    def load(spec, weights, device):
        return Tint()


    class Tint:
        shape = (3, 8, 8)

        def sample(self, y, seeds):
            import torch

            redder = torch.tensor([1, -0.299 / 0.587, 0]).view(3, 1, 1)  # of the same luma
            shares = [torch.rand(1, generator=torch.Generator().manual_seed(seed)) / 4 for seed in seeds]
            return y * (1 + torch.stack(shares)[..., None, None] * redder)

        def log_prob(self, x, y):
            return x[:, 0].flatten(1).mean(1)  # the redder, the likelier
"""


@pytest.fixture
def tint(plugin):
    plugin("tinting", SOURCE)


def test_a_direct_model_answers_and_ranks_by_its_likelihood(basis, picture, tint):
    result = basis("colorize", picture(), "--model", "tint", "--samples", 4, "--uncertainty", "-q", "--json")
    assert result.exit_code == 0, result.output
    (record,) = json.loads(result.stdout)["results"]
    assert (record["model"], record["evaluations"]) == ("tint", 4)
    assert "prior" not in record
    likelihoods = record["log_likelihood_nats"]
    assert likelihoods == sorted(likelihoods, reverse=True)
    reds = [Image.open(answer["components"][0]).split()[0].getextrema()[1] for answer in record["answers"]]
    assert reds == sorted(reds, reverse=True)
    assert reds[0] > reds[-1]


def test_its_answer_is_moved_to_what_was_observed():
    class Wrong:
        shape = (3, 4, 4)

        def sample(self, y, seeds):
            return torch.rand(len(y), 3, 4, 4, generator=torch.Generator().manual_seed(0))

    gray = 0.3 + 0.4 * torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(1))
    result = basis_cli.colorize(gray, model=Wrong())
    assert float(result.residual.max()) < 0.5  # of 255 levels


def test_its_answer_depends_on_its_own_seed_only(basis, picture, tint):
    pictures = [picture(f"{i}.png", seed=i) for i in range(3)]
    assert basis("colorize", *pictures, "--model", "tint", "-q", "-o", "together").exit_code == 0
    assert basis("colorize", pictures[1], "--model", "tint", "-q", "-o", "alone").exit_code == 0
    assert Path("alone/1.x1.png").read_bytes() == Path("together/1.x1.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["upscale", "mix.png", "--factor", 2, "--model", "tint"], 2, "is for `basis colorize`"),
        (["colorize", "mix.png", "--model", "tnit"], 3, "did you mean 'tint'"),
        (["colorize", "mix.png", "--model", "tint", "--tile"], 2, "its own size"),
        (["colorize", "mix.png", "--model", "tint", "--resume"], 2, "cannot be resumed"),
        (["colorize", "mix.png", "--model", "tint", "--compile"], 2, "no network to compile"),
    ],
)
def test_what_a_direct_model_cannot_do(basis, picture, tint, arguments, code, says):
    picture()
    result = basis(*arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr


def test_the_library_takes_a_model_too(tint):
    gray = torch.full((2, 1, 8, 8), 0.5)
    by_name = basis_cli.colorize(gray, model="tint")
    assert by_name.components.shape == (1, 2, 1, 3, 8, 8)
    assert by_name.evaluations == 1
    with pytest.raises(UsageError, match="for `basis colorize`"):
        basis_cli.inpaint(gray, "left", model="tint")


def test_neither_several_components_nor_a_samplers_options_go_with_a_model(basis, picture, tint):
    picture()
    for arguments, says in (
        (["separate", "mix.png", "--model", "tint"], "is for `basis colorize`"),
        (["colorize", "mix.png", "--model", "tint", "--prior", "toy-gaussian"], "no prior and no sampler"),
        (["colorize", "mix.png", "--model", "tint", "--levels", 3], "no prior and no sampler"),
    ):
        result = basis(*arguments)
        assert result.exit_code == 2, result.output
        assert says in result.stderr

    class Any:
        shape = (1, 8, 8)

        def sample(self, y, seeds):
            return y

    with pytest.raises(UsageError, match="one picture"):
        basis_cli.separate(torch.full((1, 1, 8, 8), 0.5), model=Any())


def test_files_that_were_compressed_differently_each_have_their_operator(basis, plugin, tmp_path):
    plugin("unblocking", SOURCE.replace("colorize", "decompress").replace("tinting", "unblocking"))
    pixels = torch.randint(60, 200, (8, 8, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    for quality in (30, 80):
        Image.fromarray(pixels).save(tmp_path / f"{quality}.jpg", quality=quality)
    result = basis("decompress", "30.jpg", "80.jpg", "--model", "tint", "-q", "--json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["results"]) == 2


ANY_SIZE = SOURCE.replace(
    "    shape = (3, 8, 8)\n",
    """    shape = (3, 8, 8)

        def sized(self, size):
            found = Tint()
            found.shape = (3, *size)
            return found
""",
)


def test_a_model_of_any_size_takes_pictures_as_they_are(basis, plugin, picture):
    plugin("tinting", ANY_SIZE)
    result = basis("colorize", picture("a.png", size=(5, 11)), picture("b.png"), "--model", "tint", "-q")
    assert result.exit_code == 0, result.output
    assert [Image.open(f"out/{stem}.x1.png").size for stem in "ab"] == [(11, 5), (8, 8)]
    result = basis("colorize", "a.png", "--model", "tint", "-q", "--fit", "resize", "-o", "fitted")
    assert result.exit_code == 0, result.output
    assert Image.open("fitted/a.x1.png").size == (8, 8)
    gray = torch.full((2, 1, 5, 7), 0.5)
    assert basis_cli.colorize(gray, model="tint").components.shape == (1, 2, 1, 3, 5, 7)


def test_temperature_is_for_models_that_have_one(basis, picture, tint, plugin):
    result = basis("colorize", picture(), "--model", "tint", "--temperature", 0.5, "-q")
    assert result.exit_code == 2
    assert "tint has no temperature" in result.stderr


def test_a_temperature_reaches_the_model(basis, picture, plugin):
    source = SOURCE.replace("seeds):", "seeds, temperature=1.0):").replace("* redder", "* temperature * redder")
    plugin("tinting", source)
    for temperature in (0.5, 0.25):
        out = ("-q", "--json", "-o", f"t{temperature}", "--overwrite")
        result = basis("colorize", picture(), "--model", "tint", "--temperature", temperature, *out)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["results"][0]["settings"]["temperature"] == temperature
    high, low = (Image.open(f"t{t}/mix.x1.png").getpixel((3, 3)) for t in (0.5, 0.25))
    assert high[0] - high[2] == pytest.approx(2 * (low[0] - low[2]), abs=3)
    assert low[0] > low[2] + 1


WITH_PRIOR = (
    SOURCE.replace("import PosteriorSpec,", "import PosteriorSpec, PriorSpec,")
    + """

    @hookimpl
    def basis_priors():
        return [PriorSpec("toy-colour", "soft blobs", (3, 8, 8), "tinting:prior")]


    def prior(spec, weights, device):
        from basis_toy.prior import soft_blobs

        return soft_blobs((3, 8, 8))
    """
)


@pytest.fixture
def with_prior(plugin):
    plugin("tinting", WITH_PRIOR)


def test_refining_begins_the_sampler_with_the_answers(basis, picture, with_prior):
    """At hardly any noise the prior leaves the tints; from pure noise nothing is left of them."""
    gray = torch.full((4, 1, 8, 8), 0.5)
    options = {"samples": 2, "channel_weights": (1 / 3, 1 / 3, 1 / 3)}
    tints = basis_cli.colorize(gray, model="tint", **options).components
    options["prior"] = "toy-colour"
    near = basis_cli.colorize(
        gray,
        model="tint",
        refine=True,
        sampling=basis_cli.Sampling(sigma_max=0.011, sigma_min=0.01, levels=2),
        **options,
    )
    kept = (near.components - near.components.mean(3, keepdim=True)) - (tints - tints.mean(3, keepdim=True))
    assert float(kept.abs().max()) < 0.06
    assert float(near.residual.max()) < 0.6
    assert near.settings["start"]["model"] == "tint"
    result = basis("colorize", picture(), "--model", "tint", "--refine", "--prior", "toy-colour", "-q", "--json")
    assert result.exit_code == 0, result.output
    (record,) = json.loads(result.stdout)["results"]
    assert (record["model"], record["prior"]) == ("tint", ["toy-colour"])
    assert (record["settings"]["sigma_max"], record["settings"]["levels"]) == (0.4, 20)


def test_what_cannot_be_refined(basis, picture, with_prior):
    picture()
    for arguments, says in (
        (("--refine",), "begins with the answers of a model"),
        (("--model", "tint", "--refine", "--prior", "ncsn-cifar"), "pictures of"),
        (("--model", "tint", "--refine", "--prior", "toy-colour", "--sampler", "average"), "no noise levels"),
    ):
        result = basis("colorize", "mix.png", *arguments, "-q")
        assert result.exit_code == 2, result.output
        assert says in result.stderr


@pytest.fixture
def coloured(tmp_path):
    """``coloured(8)`` writes three pictures with that side, to test, into ``data``."""

    def write(side):
        folder = tmp_path / "data" / "test"
        (tmp_path / "data" / "train").mkdir(parents=True)
        folder.mkdir()
        for i in range(3):
            Image.new("RGB", (side, side), (60 + 40 * i, 90, 120)).save(folder / f"{i}.png")

    return write


def test_models_are_evaluated_too(basis, with_prior, coloured):
    coloured(8)
    arguments = ("evaluate", "colorization", "--data", "data", "--model", "tint", "--samples", 4, "--json", "-q")
    result = basis(*arguments)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["model"], record["settings"]["model"]) == ("tint", "tint")
    best = record["best_of"]
    assert best["best value"]["rms"] <= best["best picture"]["rms"] <= best["one"]["rms"]
    assert best["variance"]["mean"] > 0
    assert best["baseline"]["rms"] == pytest.approx(10 ** (-record["quality"]["baseline"]["psnr"] / 20), rel=0.2)
    result = basis(*arguments, "--refine", "--prior", "toy-colour", "--levels", 2)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["residual_8bit_rms"] < 0.5
    result = basis("evaluate", "colorization", "--data", "data", "--refine")
    assert result.exit_code == 2
    assert "begins with the answers of a model" in result.stderr


def test_an_evaluation_judges_what_the_command_answers(basis, plugin, coloured, monkeypatch):
    plugin("tinting", ANY_SIZE)
    monkeypatch.setattr("basis_cli.tasks.colorization.Colorize.model", "tint")
    coloured(70)
    run = ("evaluate", "colorization", "--data", "data", "-q")
    found = json.loads(basis(*run, "--json").stdout)
    assert found["model"] == "tint"
    assert "prior" not in found
    monkeypatch.setattr("basis_cli.tasks.colorization.Colorize.prior", "toy-gaussian")
    assert json.loads(basis(*run, "--size", 8, "--levels", 2, "--json").stdout)["prior"] == "toy-gaussian"
    for arguments, says in (
        (("--size", 71), "smaller than 71 pixels"),
        (("--model", "tint", "--prior", "toy-gaussian"), "no prior and no sampler"),
        (("--model", "tint", "--levels", 2), "no prior and no sampler"),
    ):
        result = basis(*run, *arguments)
        assert result.exit_code in (1, 2)
        assert says in result.stderr


def test_a_size_is_of_pictures_that_can_have_any(basis, digits):
    result = basis(
        "evaluate", "inpainting", "--prior", "toy-gaussian", "--data", "mnist", "--data-dir", digits(), "--size", 9
    )
    assert result.exit_code == 2
    assert "leave out --size" in result.stderr
