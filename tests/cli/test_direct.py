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

            tints = [torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            return y * torch.stack(tints)

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
