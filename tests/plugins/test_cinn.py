"""Conditional flows: exact, invertible maps, and the densities that they give pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from basis_cinn import lab, latent, training
from basis_cinn.files import read, save
from basis_cinn.layers import Coupling, Haar, Permutation, Principal, Rotation, Squeeze, convolutional, dense
from basis_cinn.model import Colours, Digits, load
from basis_cinn.network import ClassFlow, ColourFlow

from basis_cli.api import InputError, PosteriorSpec, UsageError, WeightsError
from basis_cli.data.datasets import Dataset, load_dataset
from basis_cli.training import Settings

DIGITS = {"shape": (1, 4, 4), "blocks": 3, "width": 16, "directions": 6, "classes": 3}
COLOURS = {"side": 8, "blocks": (1, 2, 2), "widths": (8, 8, 16), "features": (4, 8, 8)}


def roughened(network, amount=0.1):
    """``network`` with noise on every weight: as initialized, some are zero and hide what is behind them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in filter(lambda p: p.requires_grad, network.parameters()):
            p += amount * torch.randn(p.shape, generator=generator)
    return network.requires_grad_(False)


def digits(**config) -> ClassFlow:
    torch.manual_seed(0)
    network = roughened(ClassFlow(**DIGITS | config), 0.3)
    if network.principal is not None:
        network.principal.fit(torch.rand(50, 16, generator=torch.Generator().manual_seed(1)))
    return network


def colours(**config) -> ColourFlow:
    torch.manual_seed(0)
    return roughened(ColourFlow(**COLOURS | config))


def given(network, n=2):
    """Pictures and conditions for ``network``."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(n, *network.shape, generator=generator)
    if isinstance(network, ClassFlow):
        return x, torch.arange(n) % network.classes
    return x, torch.randn(n, 1, *network.shape[1:], generator=generator)


NETWORKS = [
    lambda: digits(),
    lambda: digits(directions=0),
    lambda: colours(),
    lambda: colours(conditioning="none"),
    lambda: colours(side=6, blocks=(2, 2), widths=(8, 16), features=(4, 8)),
]


@pytest.mark.parametrize("made", NETWORKS)
def test_codes_decode_to_what_was_encoded(made):
    network = made()
    x, y = given(network, 5)
    z, _ = network.encode(x, y)
    assert z.shape == (5, network.size)
    assert float((network.decode(z, y) - x).abs().max()) < 1e-4
    assert float((z - x.flatten(1)).abs().max()) > 0.1


@pytest.mark.parametrize("made", NETWORKS)
def test_log_determinant_is_that_of_the_jacobian(made):
    network = made()
    x, y = given(network)
    _, log_det = network.encode(x, y)
    for i in range(2):
        one = x[i].flatten()
        jacobian = torch.func.jacrev(lambda v, i=i: network.encode(v.view(1, *network.shape), y[i : i + 1])[0][0])(one)
        assert float(torch.linalg.slogdet(jacobian.double())[1]) == pytest.approx(float(log_det[i]), abs=2e-3)


@pytest.mark.parametrize(
    "layer",
    [
        Coupling(6, 3, convolutional(8), 1.5),
        Coupling(5, 0, convolutional(8, 1), 1.5),
        Permutation(6),
        Rotation(6),
        Squeeze(),
        Haar(),
    ],
)
@pytest.mark.parametrize("side", [2, 8, 16])
def test_each_layer_is_exact_at_every_resolution(layer, side):
    roughened(layer, 0.2)
    channels = 5 if getattr(layer, "conditional", None) is False else 6
    x, condition = torch.randn(2, channels, side, side), torch.randn(2, 3, side, side)
    y, log_det = layer(x, condition)
    assert float((layer.inverse(y, condition) - x).abs().max()) < 1e-5
    if side == 2:
        jacobian = torch.autograd.functional.jacobian(lambda v: layer(v[None], condition[:1])[0].flatten(), x[0])
        expected = torch.linalg.slogdet(jacobian.reshape(x[0].numel(), -1).double())[1]
        assert float(log_det[0]) == pytest.approx(float(expected), abs=1e-3)


def test_haar_puts_the_averages_first():
    x = torch.rand(1, 3, 4, 4)
    y, _ = Haar()(x)
    torch.testing.assert_close(y[:, :3], 2 * torch.nn.functional.avg_pool2d(x, 2))


def test_scales_are_clamped():
    coupling = roughened(Coupling(2, 0, dense(8, 1), 0.7), 100.0)
    _, log_det = coupling(torch.tensor([[3.0, -4.0]]))
    assert 1.2 < float(log_det.abs()) < 1.4 or float(log_det.abs()) < 0.2  # two scales, each at most e^0.7


@pytest.mark.parametrize("label", [0, 1])
def test_a_density_in_two_dimensions_integrates_to_one_for_each_class(label):
    network = digits(shape=(1, 1, 2), directions=0, classes=2, blocks=4)
    axis = torch.linspace(-14, 14, 561)
    grid = torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)
    density = network(grid, torch.full((len(grid),), label)).exp()
    assert float(density.sum()) * float(axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=5e-3)
    assert not torch.allclose(density, network(grid, torch.full((len(grid),), 1 - label)).exp(), atol=1e-3)


def test_the_principal_directions_make_noisy_pictures_white():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 3, generator=generator) @ torch.randn(3, 6, generator=generator) + 0.5
    principal = Principal(6, 0.1)
    principal.fit(x)
    z, _ = principal(x + 0.1 * torch.randn(x.shape, generator=generator))
    torch.testing.assert_close(z.T.cov(), torch.eye(6), atol=0.06, rtol=0)
    assert principal.variances.diff().max() <= 0


def test_lab_is_that_of_the_standard_and_comes_back():
    red, white, gray = torch.tensor([[1.0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]]).view(3, 1, 3, 1, 1)
    for rgb, expected in ((red, (53.24, 80.09, 67.20)), (white, (100, 0, 0)), (gray, (53.39, 0, 0))):
        lightness, ab = lab.to_lab(rgb)
        found = torch.cat([lightness, ab], dim=1).flatten() * torch.tensor(lab.SCALES) + torch.tensor(lab.OFFSETS)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=0.05, rtol=0)
    rgb = torch.rand(2, 3, 5, 5)
    torch.testing.assert_close(lab.to_rgb(*lab.to_lab(rgb)), rgb, atol=1e-5, rtol=0)


def test_colours_brought_up_end_where_the_lightness_does():
    small = torch.zeros(1, 1, 8, 8)
    small[..., 4:] = 2.0  # an edge between two columns
    large = torch.zeros(1, 1, 40, 64)
    large[..., 32:] = 2.0
    colours = small.expand(-1, 2, -1, -1) - 1
    found = lab.brought_up(colours, small, large)
    torch.testing.assert_close(found, (large - 1).expand(-1, 2, -1, -1), atol=1e-3, rtol=0)
    blurred = lab.brought_up(colours, torch.zeros_like(small), torch.zeros_like(large))
    assert float(blurred[..., 30:34].abs().max()) < 0.5
    unlike = lab.brought_up(colours, small, torch.full_like(large, 50.0))  # of no lightness that there is
    assert torch.isfinite(unlike).all()


def test_a_picture_depends_on_its_own_seed_and_condition_only():
    model = Digits(digits())
    y = torch.tensor([2, 0, 1, 1, 2])
    together = model.sample(y, [5, 6, 7, 8, 9])
    assert torch.equal(model.sample(y[1:2], [6]), together[1:2])
    assert not torch.equal(together[2], together[3])
    assert torch.equal(model.log_prob(together[3:4], y[3:4]), model.log_prob(together, y)[3:4])
    model = Colours(colours())
    gray = torch.rand(3, 1, 8, 8)
    together = model.sample(gray, [1, 2, 3])
    assert torch.equal(model.sample(gray[2:], [3]), together[2:])
    assert together.shape == (3, 3, 8, 8)


def test_temperature_scales_codes():
    network = digits(directions=0)
    model, y = Digits(network), torch.zeros(4, dtype=torch.int64)
    mode = model.decode(torch.zeros(4, 16), y)
    assert torch.allclose(model.sample(y, [1, 2, 3, 4], temperature=1e-6), mode, atol=1e-4)
    codes = model.encode(network.decode(torch.full((4, 16), 0.3), y), y)
    torch.testing.assert_close(codes, torch.full((4, 16), 0.3), atol=1e-4, rtol=0)


def test_samples_without_the_noise_are_the_mean_of_what_the_pictures_may_be():
    """A Gaussian of known variance: the posterior mean given the noisy value is a shrunk one."""
    network = ClassFlow((1, 1, 2), blocks=1, directions=0, width=4, classes=2, noise=0.5).requires_grad_(False)
    z = torch.tensor([[0.4, 0.8]])  # as initialized, x is z in another order: variance 1, of which 0.25 is noise
    x = network.decode(z, torch.zeros(1, dtype=torch.int64))
    torch.testing.assert_close(Digits(network).decode(z, torch.zeros(1, dtype=torch.int64)), 0.75 * x)


def test_colours_of_any_size_keep_the_lightness():
    model = Colours(colours()).sized((13, 30))
    gray = 0.3 + 0.4 * torch.rand(2, 1, 13, 30)
    x = model.sample(gray, [1, 2], temperature=0.1)
    assert x.shape == (2, *model.shape) == (2, 3, 13, 30)
    torch.testing.assert_close(lab.to_lab(x)[0], lab.lightness_of(gray), atol=0.05, rtol=0)
    assert model.log_prob(x, gray).shape == (2,)


@pytest.mark.parametrize("made", NETWORKS)
def test_weights_come_back(made, tmp_path):
    network = made()
    save(tmp_path / "a.safetensors", network, {"data": "none"})
    again = read(tmp_path / "a.safetensors")
    save(tmp_path / "b.safetensors", again, {"data": "none"})
    x, y = given(network)
    assert again.config == network.config
    assert torch.allclose(again(x, y), network(x, y), rtol=0.05)  # rounded to bfloat16
    assert torch.allclose(read(tmp_path / "b.safetensors")(x, y), again(x, y), rtol=0.01)


def spec(task="sample", shape=(1, 4, 4)):
    return PosteriorSpec("mine", "", task, shape, "basis_cinn.model:load")


def test_weights_of_another_task_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save(path, digits(), {})
    assert isinstance(load(spec(), path, torch.device("cpu")), Digits)
    for wrong in (spec("colorize"), spec(shape=(1, 8, 8))):
        with pytest.raises(WeightsError, match="not mine"):
            load(wrong, path, torch.device("cpu"))
    with pytest.raises(WeightsError, match="no weights of its own"):
        load(spec(), None, torch.device("cpu"))
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError):
        load(spec(), path, torch.device("cpu"))


def two_classes(split: str, classes: int = 2) -> Dataset:
    """Class 0 is bright on the left, class 1 on the right."""
    rng = np.random.default_rng(len(split))
    labels = np.arange(200) % classes
    images = rng.integers(0, 60, (200, 1, 4, 4)) + 150 * (labels[:, None] == np.array([0, 0, 1, 1]))[:, None, None]
    return Dataset("sides", split, images.astype(np.uint8), labels)


QUICK = {"batch": 50, "warmup": 2, "learning_rate": 3e-3, "optimizer": "adam", "bf16": False}


def train(out: Path, steps: int = 200, width: int = 16, directions: int = 8, **more) -> Path:
    config = {"blocks": 2, "width": width, "directions": directions}
    settings = Settings(**QUICK | {"steps": steps, "sheet_every": steps, "save_every": steps})
    return training.train_classes(two_classes("train"), two_classes("test"), out, settings, config=config, **more)


def test_training_finds_which_class_a_picture_is_of(tmp_path):
    network = read(train(tmp_path / "run"))
    (line,) = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()][-1:]
    assert line["bayes_accuracy"] == 1.0
    assert math.isfinite(line["bits_per_dim"])
    x = Digits(network).sample(torch.tensor([0, 1]), [1, 2])
    left, right = x[..., :2].mean(dim=(1, 2, 3)), x[..., 2:].mean(dim=(1, 2, 3))
    assert (left - right).sign().tolist() == [1, -1]
    assert (tmp_path / "run/samples-0000200.png").exists()


def test_what_cannot_be_trained(tmp_path):
    with pytest.raises(UsageError, match="nothing of classes"):
        training.train_classes(two_classes("train", 1), two_classes("test", 1), tmp_path, Settings())
    with pytest.raises(UsageError, match="99 directions"):
        train(tmp_path / "none", directions=99)
    path = train(tmp_path / "one", steps=1)
    again = read(train(tmp_path / "two", steps=1, start_from=path))
    assert torch.equal(again.principal.mean, read(path).principal.mean)
    with pytest.raises(UsageError, match="another network"):
        train(tmp_path / "three", start_from=path, width=8)


def photographs(split: str, gray: int = 10) -> Dataset:
    """Half of them are red on the left and blue on the right, half the other way round; and gray ones."""
    rng = np.random.default_rng(len(split))
    images = np.full((60 + gray, 3, 8, 8), 90.0) + rng.integers(0, 20, (60 + gray, 1, 8, 8))
    sign = rng.choice([-1, 1], (60, 1, 1))
    side = np.where(np.arange(8) < 4, 60, -60) * sign
    images[:60, 0] += side
    images[:60, 2] -= side
    return Dataset("two ways", split, images.astype(np.uint8), np.zeros(60 + gray, int))


def train_colours(out: Path, steps: int = 2, data=photographs, **config) -> Path:
    settings = Settings(**QUICK | {"steps": steps, "sheet_every": steps, "save_every": steps})
    small = {"blocks": (1, 2), "widths": (8, 16), "features": (4, 8)}
    return training.train_colours(data("train"), data("test"), out, settings, config=small | config)


def test_colours_are_learned_with_what_gray_says_of_them(tmp_path):
    network = read(train_colours(tmp_path / "run", 150))
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["held_out_loss"] < metrics[0]["loss"] - 0.5
    x = Colours(network).sample(torch.full((16, 1, 8, 8), 0.4), list(range(16)))
    redder = (x[:, 0] - x[:, 2])[..., :4].mean(dim=(1, 2)) > 0
    assert 3 <= int(redder.sum()) <= 13  # both ways
    assert (tmp_path / "run/samples-0000150.png").exists()


def test_gray_pictures_are_left_out():
    assert len(training.in_colour(photographs("train").images)) == 60


@pytest.mark.parametrize("conditioning", ["fixed", "none"])
def test_the_conditioning_network_may_be_trained_before_or_be_none(conditioning, tmp_path):
    network = read(train_colours(tmp_path / "run", conditioning=conditioning))
    if conditioning == "none":
        assert network.condition is None
    else:
        alone = torch.load(tmp_path / "run/condition/state.pt", weights_only=True)["average"]["condition.begin.weight"]
        torch.testing.assert_close(network.condition.begin.weight, alone, atol=0.01, rtol=0.01)
    assert all(p.requires_grad for name, p in network.named_parameters() if ".net" in name)


def test_what_colours_cannot_be_learned_from(tmp_path):
    for data, says in (
        (two_classes, "square pictures in colour"),
        (lambda s: photographs(s).__class__("gray", s, photographs(s).images[60:], np.zeros(10, int)), "are gray"),
    ):
        with pytest.raises(UsageError, match=says):
            train_colours(tmp_path, data=data)
    with pytest.raises(UsageError, match="cannot be halved"):
        train_colours(tmp_path, blocks=(1,) * 5, widths=(8,) * 5, features=(8,) * 5)


def test_color_mnist_is_made_of_mnist(tmp_path):
    labels, ink = np.arange(10), np.zeros((10, 28, 28))
    ink[:, 8:20, 8:20] = 255
    for kind, array in (("images-idx3", ink), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
        (tmp_path / f"t10k-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    found = load_dataset("color-mnist", "test", tmp_path)
    assert found.images.shape == (10, 3, 28, 28)
    assert found.labels.tolist() == labels.tolist()
    assert np.array_equal(found.images, load_dataset("color-mnist", "test", tmp_path).images)
    inside, outside = found.images[:, :, 10:18, 10:18], found.images[:, :, :6]
    assert [each.mean(axis=(1, 2)).argmax() for each in (inside[0], outside[0])] == [0, 1]  # red on green
    with pytest.raises(InputError, match="color-mnist"):
        load_dataset("color-mnist", "train", tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"side": 10},
        {"blocks": (1, 2)},
        {"widths": (8, 0, 16)},
        {"conditioning": "jointly"},
    ],
)
def test_networks_that_cannot_be(config):
    with pytest.raises(ValueError, match="halved|resolution|conditioning"):
        ColourFlow(**COLOURS | config)


def test_codes_between_and_combined():
    first, last = torch.zeros(4), torch.ones(4)
    assert latent.between(first, last, 3).tolist() == [[0] * 4, [0.5] * 4, [1] * 4]
    plane = latent.plane(torch.tensor([1.0, 0]), torch.tensor([0, 1.0]), 3, 0.9)
    assert plane.shape == (3, 3, 2)
    assert plane[1, 1].tolist() == [0, 0]
    torch.testing.assert_close(plane[0, 2], torch.tensor([-0.9, 0.9]))


def test_principal_components_of_codes():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 3, generator=generator) * torch.tensor([1.0, 5.0, 2.0]) + 1
    found = latent.Components.of(z, 2)
    torch.testing.assert_close(found.directions.abs(), torch.eye(3)[:, [1, 2]], atol=0.05, rtol=0)
    torch.testing.assert_close(found.deviations, torch.tensor([5.0, 2.0]), rtol=0.1, atol=0)
    torch.testing.assert_close(found.of_codes(z).std(0), torch.ones(2), rtol=0.01, atol=0)
    moved = found.along({1: 0.5}, torch.tensor([0.0, 4.0]))
    torch.testing.assert_close(found.of_codes(moved), torch.tensor([[0.0, 0], [0, 2]]), atol=1e-3, rtol=0)


def test_a_code_decodes_as_every_class_and_a_level_of_it_can_be_renewed():
    model = Digits(digits())
    found = latent.with_every_label(model, torch.randn(2, 16))
    assert found.shape == (3, 2, 1, 4, 4)
    network = colours()
    assert latent.levels(network) == [96, 32]  # a quarter goes on behind the Haar transform, nothing leaves before it
    z, noise = torch.randn(2, 128), torch.randn(2, 128)
    new = latent.renewed(network, z, (1.0, 0.36), noise)
    assert torch.equal(new[:, :96], noise[:, :96])
    torch.testing.assert_close(new[:, 96:], 0.8 * z[:, 96:] + 0.6 * noise[:, 96:])
