"""Checkpoints of diffusers as priors, against diffusers' own schedulers. Networks are small and random."""

from __future__ import annotations

import gzip
import json
import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from basis_cli.api import InputError, UsageError, WeightsError, load_prior, soundness
from basis_cli.cli.app import app

diffusers = pytest.importorskip("diffusers", reason="needs the extra: pip install 'basis-cli[diffusers]'")

from basis_diffusers.prior import DiffusersPrior  # noqa: E402
from basis_diffusers.schedules import schedule  # noqa: E402


def unet(seed: int = 0, channels: int = 1, size: int = 8, **more):
    torch.manual_seed(seed)
    shape = {"sample_size": size, "in_channels": channels, "out_channels": channels}
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    small = {"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 8}
    return diffusers.UNet2DModel(**shape | blocks | small | more).eval()


def saved(folder: Path, network=None, scheduler=None) -> str:
    """The name of a prior for a pipeline, saved."""
    pipeline = diffusers.DDPMPipeline(network or unet(), scheduler or diffusers.DDPMScheduler())
    pipeline.save_pretrained(folder)
    return f"diffusers:{folder}"


def denoised(prior, x: torch.Tensor, sigma: float) -> torch.Tensor:
    return x + sigma**2 * prior.at(sigma).score(x)


def noisy(sigma: float, shape=(3, 1, 8, 8)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator) + sigma * torch.randn(shape, generator=generator)


@pytest.mark.parametrize("t", [20, 400])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_it_denoises_as_the_scheduler_does(prediction, betas, t):
    scheduler = diffusers.DDPMScheduler(beta_schedule=betas, prediction_type=prediction, clip_sample=False)
    network = unet()
    prior = DiffusersPrior(network, schedule(scheduler.config))
    kept = float(scheduler.alphas_cumprod[t])
    sigma = math.sqrt((1 - kept) / kept)  # of pictures in [-1, 1]: twice ours
    x = noisy(sigma / 2)
    sample = math.sqrt(kept) * (2 * x - 1)
    with torch.no_grad():
        expected = scheduler.step(network(sample, t).sample, t, sample).pred_original_sample
    torch.testing.assert_close(denoised(prior, x, sigma / 2), (expected + 1) / 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_it_preconditions_as_edm_does(prediction):
    scheduler = diffusers.EDMEulerScheduler(prediction_type=prediction, sigma_data=0.4)
    network, sigma = unet(), 0.7
    x = noisy(sigma / 2)
    sample = 2 * x - 1
    with torch.no_grad():
        raw = network(scheduler.precondition_inputs(sample, sigma), scheduler.precondition_noise(sigma)).sample
    expected = (scheduler.precondition_outputs(sample, raw, sigma) + 1) / 2
    prior = DiffusersPrior(network, schedule(scheduler.config))
    torch.testing.assert_close(denoised(prior, x, sigma / 2), expected, rtol=1e-4, atol=1e-4)


def test_variance_exploding_networks_return_the_score_in_0_1(tmp_path):
    name = saved(
        tmp_path / "ve",
        network := unet(time_embedding_type="fourier", center_input_sample=True),
        diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50),
    )
    x = noisy(0.3)
    with torch.no_grad():
        expected = network(x, torch.tensor([0.3] * 3)).sample
    torch.testing.assert_close(load_prior(name, device="cpu").at(0.3).score(x), expected, rtol=1e-4, atol=1e-4)


def test_between_timesteps_the_noise_level_is_interpolated_in_log_snr():
    scheduler = diffusers.DDPMScheduler()
    noise, steps = schedule(scheduler.config), []
    sigmas = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).double().sqrt()
    noise.denoised(lambda x, t: steps.append(t) or x, noisy(1), float((sigmas[100] * sigmas[101]).sqrt()))
    assert steps == [pytest.approx(100.5, abs=1e-3)]


def test_a_schedule_that_ends_in_pure_noise_has_a_highest_level():
    noise = schedule(diffusers.DDPMScheduler(rescale_betas_zero_snr=True).config)
    assert np.isfinite(noise.log_sigmas).all()
    assert (np.diff(noise.log_sigmas) > 0).all()


def test_noise_that_it_was_not_trained_with_is_refused(tmp_path):
    prior = load_prior(saved(tmp_path / "a"), device="cpu")
    with pytest.raises(InputError, match=r"knows noise levels from 0.005 to 78.* not 0.001"):
        prior.at(0.001)
    with pytest.raises(InputError, match="not 100"):
        prior.at(100)


def test_channels_of_a_learned_variance_are_dropped(tmp_path):
    network = unet(out_channels=2)
    prior = load_prior(saved(tmp_path / "a", network), device="cpu")
    assert prior.shape == (1, 8, 8)
    assert prior.at(0.5).score(noisy(0.5)).shape == (3, 1, 8, 8)


def test_a_network_of_classes_takes_a_label(tmp_path):
    name = saved(tmp_path / "a", unet(num_class_embeds=3))
    one, two = (load_prior(f"{name}#{label}", device="cpu").at(0.5).score(noisy(0.5)) for label in (1, 2))
    assert not torch.allclose(one, two)
    for wrong, reason in (("", "wants a class, 0 to 2"), ("#3", "no class 3"), ("#x", "no class")):
        with pytest.raises(UsageError, match=reason):
            load_prior(name + wrong, device="cpu")
    with pytest.raises(UsageError, match="no class 0"):
        load_prior(f"{saved(tmp_path / 'b')}#0", device="cpu")


def test_a_picture_does_not_depend_on_its_batch(tmp_path):
    attention = {
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    }
    level = load_prior(saved(tmp_path / "a", unet(**attention)), device="cpu").at(0.4)
    x = noisy(0.4, (6, 1, 8, 8))
    assert torch.equal(level.score(x)[2:3], level.score(x[2:3]))


def test_any_of_its_folders_is_taken(tmp_path, recwarn):
    saved(tmp_path / "a")
    names = [tmp_path / "a", tmp_path / "a" / "unet"]
    flat = tmp_path / "flat"  # as the oldest checkpoints are
    flat.mkdir()
    for file in ("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        (flat / Path(file).name).write_bytes((tmp_path / "a" / file).read_bytes())
    unet().save_pretrained(bare := tmp_path / "bare")
    scores = [load_prior(f"diffusers:{name}", device="cpu").at(0.5).score(noisy(0.5)) for name in [*names, flat, bare]]
    assert all(torch.equal(score, scores[0]) for score in scores)
    assert [str(warning.message).partition(": ")[2][:5] for warning in recwarn] == ["taken"]
    prior = load_prior("diffusers", weights_path=bare / "diffusion_pytorch_model.safetensors", device="cpu")
    assert torch.equal(prior.at(0.5).score(noisy(0.5)), scores[0])


def _changed(file: str, **values):
    def change(folder: Path) -> None:
        config = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(config | values))

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").rename(folder / "unet/x.bin"), "pickles"),
        (lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99), "cannot load"),
        (lambda folder: (folder / "unet/config.json").write_text("{"), "cannot read"),
        (lambda folder: (folder / "unet/config.json").write_text("[]"), "not a JSON object"),
        (_changed("unet/config.json", _class_name="UNet2DConditionModel"), "holds a UNet2DConditionModel"),
        (_changed("unet/config.json", sample_size=None), "no sample_size"),
        (_changed("unet/config.json", class_embed_type="timestep"), "classes that are not numbers"),
        (_changed("unet/config.json", block_out_channels=[8, 24]), "cannot load"),
        (_changed("scheduler/scheduler_config.json", prediction_type="flow"), "'flow' is not supported"),
        (
            lambda folder: (folder / "scheduler/scheduler_config.json").write_text('{"_class_name": "Flow"}'),
            "Flow with prediction_type 'epsilon' is not supported",
        ),
        (lambda folder: (folder / "vqvae").mkdir(), "latent space"),
    ],
)
def test_what_is_no_prior_is_refused(tmp_path, change, reason):
    name = saved(tmp_path / "a")
    change(tmp_path / "a")
    with pytest.raises(WeightsError, match=reason):
        load_prior(name, device="cpu")


def test_without_diffusers_it_says_what_to_install(tmp_path, monkeypatch):
    name = saved(tmp_path / "a")
    monkeypatch.setitem(sys.modules, "diffusers.utils", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for each in (name, "diffusers:owner/name"):
        with pytest.raises(UsageError, match=r"pip install 'basis-cli\[diffusers\]'"):
            load_prior(each, device="cpu")


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_two_checkpoints_separate_a_picture_larger_than_theirs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate("ab"):
        saved(tmp_path / name, unet(i, 3))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 17, 3), np.uint8)).save("mix.png")
    quick = ["--levels", 2, "-q", "--json"]
    result = run(
        "separate", "mix.png", "--prior", "diffusers:a", "--prior", "diffusers:b", "--tile", "--pyramid", *quick
    )
    assert result.exit_code == 0, result.output
    (record,) = json.loads(result.stdout)["results"]
    assert len(set(record["weights_sha256"].values())) == 2
    assert Image.open("out/mix.x2.png").size == (17, 20)
    result = run("sample", "--prior", "diffusers:a", "-n", 2, "--levels", 2, "-q")
    assert result.exit_code == 0, result.output
    assert Path("out/diffusers-a-0002.png").exists()
    assert json.loads(run("priors", "info", "diffusers:a", "--json").stdout)["weights_sha256"]
    assert run("weights", "path", "diffusers:a").stdout.strip().endswith("diffusion_pytorch_model.safetensors")
    assert run("separate", "mix.png", "--prior", "diffusers:nowhere/nothing", "-o", "c").exit_code == 4
    assert run("separate", "mix.png", "--prior", "diffusers:./nowhere", "-o", "c").exit_code == 4
    both = run("separate", "mix.png", "--prior", "diffusers:a", "--weights", "mix.png", "-o", "c")
    assert both.exit_code == 2, both.output
    assert "names its weights itself" in both.stderr


def test_only_pull_downloads(tmp_path, monkeypatch):
    saved(tmp_path / "a")
    asked = []

    def snapshot_download(name, allow_patterns, local_files_only):
        asked.append((name, local_files_only))
        assert not any("bin" in pattern or "pt" in pattern for pattern in allow_patterns)
        return str(tmp_path / "a")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load_prior("diffusers:owner/name", device="cpu").shape == (1, 8, 8)
    result = run("weights", "pull", "diffusers:owner/name")
    assert result.exit_code == 0, result.output
    assert asked == [("owner/name", True), ("owner/name", False)]

    def offline(*_, **__):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    result = run("weights", "pull", "diffusers:owner/name")
    assert (result.exit_code, "no network" in result.stderr) == (4, True)
    assert run("weights", "pull", "ncsn:mine.safetensors").exit_code == 2


def test_the_example_trains_a_prior(tmp_path, monkeypatch):
    digits = bytes(16) + np.random.default_rng(0).integers(0, 255, 10 * 28 * 28, np.uint8).tobytes()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(digits))
    out = tmp_path / "ddpm"
    example = Path(__file__).parents[2] / "examples" / "train_ddpm.py"
    monkeypatch.setattr("sys.argv", ["", str(tmp_path), str(out), "--minutes", "1e-9", "--batch", "2"])
    with torch.random.fork_rng():
        runpy.run_path(str(example))
    prior = load_prior(f"diffusers:{out}", device="cpu")
    assert prior.shape == (1, 28, 28)
    assert prior.noise.prediction == "v_prediction"


def test_our_own_network_in_their_format_is_the_same_prior(tmp_path):
    from basis_ncsn.export import export

    export(Path(__file__).parents[2] / "weights" / "ncsn-mnist.safetensors", tmp_path / "mnist")
    ours, theirs = (load_prior(name, device="cpu") for name in ("ncsn-mnist", f"diffusers:{tmp_path / 'mnist'}"))
    assert theirs.shape == ours.shape
    for sigma in (0.03, 0.3, 1.3):
        x = noisy(sigma, (2, 1, 28, 28))
        torch.testing.assert_close(denoised(theirs, x, sigma), denoised(ours, x, sigma), rtol=0, atol=1e-5)
        assert torch.equal(theirs.at(sigma).score(x)[:1], theirs.at(sigma).score(x[:1]))
    _changed("model_index.json", unet=["os", "ScoreUNet"])(tmp_path / "mnist")
    with pytest.raises(WeightsError, match="holds a ScoreUNet"):
        load_prior(f"diffusers:{tmp_path / 'mnist'}", device="cpu")


def test_weights_of_ones_own_stand_behind_a_colon(tmp_path):
    weights = Path(__file__).parents[2] / "weights" / "ncsn-mnist.safetensors"
    x = noisy(0.3, (2, 1, 28, 28))
    own, shipped = (load_prior(name, device="cpu").at(0.3).score(x) for name in (f"ncsn:{weights}", "ncsn-mnist"))
    assert torch.equal(own, shipped)
    with pytest.raises(WeightsError, match="no file of weights at nothing"):
        load_prior("ncsn:nothing", device="cpu")


def test_a_sound_network_is_sound(tmp_path):
    """One that knows its pictures: gray, of any brightness."""

    class Gray(torch.nn.Module):
        config = unet().config

        def forward(self, x, t):
            return type("Output", (), {"sample": x.mean((2, 3), keepdim=True).expand_as(x) / kept(t)})

    scheduler = diffusers.DDPMScheduler(prediction_type="sample")

    def kept(t):
        low, part = int(t[0]), float(t[0]) % 1
        a = scheduler.alphas_cumprod[low : low + 2]
        logs = ((1 - a) / a).log()
        return float((1 + (logs[0] * (1 - part) + logs[1] * part).exp()) ** -0.5)

    prior = DiffusersPrior(Gray(), schedule(scheduler.config))
    pictures = torch.rand(16, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    assert soundness.check(prior, pictures).verdict == "sound"
