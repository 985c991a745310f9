"""The feature network, and the figures that are made with one: FID and IS."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from basis_cli.data.datasets import Dataset, load_dataset
from basis_cli.errors import UsageError, WeightsError
from basis_cli.evaluation import features, metrics

DATA = os.environ.get("BASIS_DATA")
CONFIG = {"widths": (8, 16), "classes": 10}


def pictures(count: int = 40, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    return Dataset("tiny", "train", rng.integers(0, 256, (count, 3, 16, 16), dtype=np.uint8), np.arange(count) % 10)


@pytest.fixture
def file(tmp_path) -> Path:
    torch.manual_seed(0)
    features.save(tmp_path / "f.safetensors", features.FeatureNetwork(**CONFIG), CONFIG, pictures(), {"data": "tiny"})
    return tmp_path / "f.safetensors"


# --- the network


def test_network_gives_logits_and_features():
    network = features.FeatureNetwork()
    assert 1.5e6 < sum(p.numel() for p in network.parameters()) < 2.1e6
    logits, found = network(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    assert found.shape == (2, 256)
    with pytest.raises(ValueError, match="multiples of 8"):
        features.FeatureNetwork(widths=(12,))


def test_saved_network_is_the_one_that_is_read(tmp_path):
    torch.manual_seed(0)
    network, path = features.FeatureNetwork(**CONFIG), tmp_path / "f.safetensors"
    features.save(path, network, CONFIG, pictures(), {})
    again, statistics = features.read(path)
    data = torch.from_numpy(pictures().images)
    found = metrics.features_of(again, data)
    for one, other in zip(found, metrics.features_of(network, data), strict=True):
        assert torch.equal(one, other)
    expected = metrics.Statistics.of(found[1])
    assert statistics.count == expected.count == 40
    assert torch.allclose(statistics.mean, expected.mean)
    assert torch.allclose(statistics.covariance, expected.covariance, atol=1e-7)


def test_other_files_are_refused(tmp_path, file):
    with pytest.raises(WeightsError, match="no file of weights"):
        features.cifar_realism(tmp_path / "none")
    (tmp_path / "cut").write_bytes(file.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="cannot read weights"):
        features.read(tmp_path / "cut")
    from basis_cli.weights import SHIPPED

    with pytest.raises(WeightsError, match="does not hold a feature network"):
        features.read(SHIPPED / "ncsn-mnist.safetensors")


class Brightness(nn.Module):
    """Guesses class 1 for pictures whose upper left pixel is bright, else class 0; also a network of features."""

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        value = x[:, :, 0, 0]
        return torch.stack([-value[:, 0], value[:, 0]], dim=1) - torch.tensor([-0.5, 0.5]), value


def test_accuracy_is_the_share_of_right_guesses():
    images = np.zeros((1203, 3, 8, 8), np.uint8)
    images[::3] = 255
    labels = (np.arange(1203) % 3 == 0).astype(int)
    assert features.accuracy(Brightness(), Dataset("d", "test", images, labels)) == 1
    labels[:301] = 1 - labels[:301]
    assert features.accuracy(Brightness(), Dataset("d", "test", images, labels)) == pytest.approx(902 / 1203)


def test_shifted_pictures_are_the_same_but_for_the_edges():
    x = torch.rand(50, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    y = features.shifted(x, torch.Generator().manual_seed(0))
    moves = set()
    for before, after in zip(x, y, strict=True):
        windows = {(i, j): before[:, i : i + 8, j : j + 8] for i in range(5) for j in range(5)}
        moves |= {move for move, window in windows.items() if torch.equal(window, after[:, 2:10, 2:10])}
    assert len(moves) > 15
    assert y.shape == x.shape
    still = features.shifted(x, torch.Generator().manual_seed(0), most=0)
    assert torch.equal(still, x)


def test_the_shipped_network_brings_its_reference():
    realism = features.cifar_realism(device="cpu")
    assert realism.reference.count == 50_000
    assert realism.reference.mean.shape == (256,)
    found = realism(torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert found["cifar-FID"] > 10


@pytest.mark.skipif(
    not DATA or not (Path(DATA) / "cifar10").is_dir(), reason="BASIS_DATA names no folder with CIFAR-10"
)
def test_the_shipped_network_knows_cifar():
    test = load_dataset("cifar10", "test")
    some = Dataset(test.name, test.split, test.images[:1000], test.labels[:1000])
    realism = features.cifar_realism(device="cpu")
    assert features.accuracy(realism.network, some) > 0.88


# --- FID and IS


def gaussian(count: int, scale: float = 1.0, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    mixing = torch.randn(5, 5, generator=torch.Generator().manual_seed(9))
    return scale * torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)) @ mixing + shift


def test_frechet_distance_is_that_of_two_gaussians():
    """Four points with covariance diag(4, 1), against others shifted by (1, 2): with covariance diag(9, 1) their
    roots differ by 1 in one place; turned by 45 degrees, the product of both has trace 12.5 and determinant 16, and
    so its root the trace sqrt(12.5 + 2 sqrt(16))."""
    a = torch.tensor([[6**0.5, 0], [-(6**0.5), 0], [0, 1.5**0.5], [0, -(1.5**0.5)]])
    shift, turn = torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 1.0], [-1.0, 1.0]]) / 2**0.5

    def distance(b: torch.Tensor) -> float:
        return metrics.frechet_distance(a, metrics.Statistics.of(b))

    assert distance(a) == pytest.approx(0, abs=1e-6)
    assert distance(a + shift) == pytest.approx(5, rel=1e-5)
    assert distance(a * torch.tensor([1.5, 1.0]) + shift) == pytest.approx(5 + 1, rel=1e-5)
    assert distance(a @ turn + shift) == pytest.approx(5 + 10 - 2 * 20.5**0.5, rel=1e-5)
    many = gaussian(300)
    assert metrics.frechet_distance(many, metrics.Statistics.of(many)) == pytest.approx(0, abs=1e-9)


def test_inception_score_by_hand():
    assert metrics.inception_score(torch.zeros(100, 10)) == pytest.approx((1, 0))
    certain = 100 * torch.eye(10).repeat(1000, 1)
    assert metrics.inception_score(certain)[0] == pytest.approx(10, rel=0.01)
    state = torch.get_rng_state()
    assert metrics.inception_score(certain) == metrics.inception_score(certain)
    assert torch.equal(state, torch.get_rng_state())


def test_realism_of_the_reference_itself(file):
    realism = features.cifar_realism(file, "cpu")
    own = realism(torch.from_numpy(pictures().images).float() / 255)
    assert list(own) == ["cifar-FID", "cifar-IS", "cifar-IS-std"]
    assert own["cifar-FID"] == pytest.approx(0, abs=1e-4)
    assert own["cifar-IS"] >= 1
    few, several = realism.caveats(16), realism.caveats(499)
    assert [caveat.partition(":")[0] for caveat in few + several] == ["cifar-FID", "cifar-IS", "cifar-IS"]
    assert not realism.caveats(500)
    other = realism(torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0)) ** 4)
    assert other["cifar-FID"] > 10 * abs(own["cifar-FID"])
    with pytest.raises(UsageError, match="two RGB pictures"):
        realism(torch.rand(40, 1, 16, 16))
    with pytest.raises(UsageError, match="two RGB pictures"):
        realism(torch.rand(1, 3, 16, 16))


def test_pictures_are_rounded_to_8_bits_and_clipped():
    levels = torch.from_numpy(pictures().images)
    exact = metrics.features_of(Brightness(), levels)
    almost = (levels.float() + 0.4 * torch.rand(levels.shape, generator=torch.Generator().manual_seed(0))) / 255
    for one, other in zip(exact, metrics.features_of(Brightness(), almost, batch=7), strict=True):
        assert torch.equal(one, other)
    assert metrics.features_of(Brightness(), torch.full((1, 3, 8, 8), 1.2))[1].max() == 1


def test_torchmetrics_is_needed(monkeypatch):
    for module in ("image.fid", "image.inception"):
        monkeypatch.setitem(sys.modules, f"torchmetrics.{module}", None)
    x = torch.rand(4, 3, 16, 16)
    for measure in (
        lambda: metrics.inception_score(torch.zeros(4, 10)),
        lambda: metrics.Realism(Brightness(), metrics.Statistics.of(torch.rand(4, 3)))(x),
    ):
        with pytest.raises(UsageError, match="needs torchmetrics") as error:
            measure()
        assert error.value.hint == "pip install 'basis-cli[eval]'"


# --- the Inception network


@pytest.fixture
def torch_fidelity(monkeypatch):
    """A stand-in with torch-fidelity's interface: uint8 in, a tuple of features out, weights read from a file."""

    class Extractor(nn.Module):
        def __init__(self, name, features_list, weights):
            super().__init__()
            assert features_list == ["2048", "logits_unbiased"]
            self.scale = nn.Parameter(torch.zeros(()))
            self.load_state_dict(torch.load(weights, weights_only=True))

        def forward(self, x):
            assert x.dtype == torch.uint8
            features = self.scale * x[:, :, 0, 0].float()
            return features, torch.zeros(len(x), 1008)

    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("torch_fidelity")
def test_inception_figures_have_the_published_names(tmp_path):
    torch.save({"scale": torch.tensor(2.0)}, tmp_path / "inception.pth")
    realism = features.inception_realism(tmp_path / "inception.pth", pictures(), "cpu")
    assert torch.equal(realism.reference.mean, 2 * torch.from_numpy(pictures().images[:, :, 0, 0]).double().mean(0))
    found = realism(torch.from_numpy(pictures().images).float() / 255)
    assert found == pytest.approx({"FID": 0, "IS": 1, "IS-std": 0}, abs=1e-6)
    grey = Dataset("mnist", "train", pictures().images[:, :1], pictures().labels)
    with pytest.raises(UsageError, match="RGB"):
        features.inception_realism(tmp_path / "inception.pth", grey)


class Harmful:
    def __reduce__(self):
        return exec, ("raise SystemExit('code in a pickle was run')",)


@pytest.mark.usefixtures("torch_fidelity")
@pytest.mark.parametrize("content", [{"scale": Harmful()}, {"other": torch.zeros(1)}, b"junk", None])
def test_other_inception_files_are_refused(tmp_path, content):
    path = tmp_path / "inception.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save(content, path)
    with pytest.raises(WeightsError, match="cannot read Inception weights"):
        features.inception_realism(path, pictures(), "cpu")


def test_torch_fidelity_is_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UsageError, match="needs torch-fidelity") as error:
        features.inception_realism(tmp_path / "inception.pth", pictures())
    assert error.value.hint == "pip install 'basis-cli[inception]'"


def test_a_torchvision_that_does_not_fit_is_one_clear_line(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    monkeypatch.setattr(metrics, "import_module", broken)
    with pytest.raises(
        UsageError, match=r"torchmetrics cannot be imported: operator torchvision::nms does not exist \("
    ):
        metrics.torchmetrics("image.fid")
