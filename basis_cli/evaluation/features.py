"""The networks behind FID and IS: this project's small CIFAR-10 classifier, and the Inception network.

What the classifier gives is called cifar-FID and cifar-IS: its figures cannot be compared with the Inception network's.
"""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checkpoint, training, weights
from ..compute import choose_device
from ..data.datasets import Dataset
from ..errors import UsageError, WeightsError
from ..evaluation.metrics import Realism, Statistics, features_of

SHIFT = 2  # pixels that a training picture is moved by, at most
SMOOTHING = 0.1  # of the labels


class FeatureNetwork(nn.Module):
    """A convolutional classifier of RGB pictures: ``len(widths)`` stages of two convolutions, each halving the picture.

    Raises:
        ValueError: a width that is not a multiple of 8.
    """

    def __init__(self, widths: tuple[int, ...] = (64, 224, 256), classes: int = 10):
        super().__init__()
        if not widths or any(width < 8 or width % 8 for width in widths):
            raise ValueError(f"widths must be multiples of 8, not {tuple(widths)}")
        self.begin = nn.Conv2d(3, 32, 2)
        stages = []
        for before, width in zip((32, *widths), widths, strict=False):
            stages += [
                nn.Conv2d(before, width, 3, padding=1, bias=False),
                nn.MaxPool2d(2),
                nn.GroupNorm(8, width),
                nn.GELU(),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.GroupNorm(8, width),
                nn.GELU(),
            ]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(n, classes)`` and features ``(n, widths[-1])`` of pictures ``(n, 3, h, w)`` in [0, 1]."""
        features = self.stages(F.gelu(self.begin(4 * x - 2))).mean(dim=(2, 3))
        return self.head(features), features


def shifted(x: Tensor, generator: torch.Generator, most: int = SHIFT) -> Tensor:
    """Each picture of ``x`` ``(n, c, h, w)`` moved by up to ``most`` pixels along both axes, its edges mirrored."""
    n, _, h, w = x.shape
    padded = F.pad(x, (most,) * 4, mode="reflect")
    dy, dx = torch.randint(2 * most + 1, (2, n, 1), generator=generator, device=x.device)
    rows, columns = dy + torch.arange(h, device=x.device), dx + torch.arange(w, device=x.device)
    pictures = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[pictures, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def classification_loss(network: nn.Module, x: Tensor, generator: torch.Generator, labels: Tensor) -> Tensor:
    """Cross entropy of ``labels`` ``(n,)``, smoothed, for shifted pictures."""
    logits, _ = network(shifted(x, generator))
    return F.cross_entropy(logits.float(), labels, label_smoothing=SMOOTHING)


@torch.no_grad()
def accuracy(network: nn.Module, data: Dataset) -> float:
    """The share of ``data`` whose class gets the largest logit."""
    device = next(network.parameters()).device
    right = 0
    for start in range(0, len(data.images), 500):
        x = data[start : start + 500].to(device)
        guesses = network(x)[0].argmax(1).cpu().numpy()
        right += int((guesses == data.labels[start : start + 500]).sum())
    return right / len(data.images)


def save(path: Path, network: nn.Module, config: dict[str, Any], reference: Dataset, notes: dict[str, str]) -> None:
    """Write ``network``, its kernels in bfloat16, and the mean and covariance of its features over ``reference``.

    ``network`` itself is rounded to what the file holds; ``notes`` are kept for the reader.

    Raises:
        NotFiniteError: a weight is NaN or infinite.
        BasisError: the file cannot be written; what stood there before is kept.
    """
    tensors = {
        name: tensor.to(torch.bfloat16 if tensor.ndim > 1 else torch.float32)
        for name, tensor in network.state_dict().items()
    }
    network.load_state_dict(tensors)
    _, features = features_of(network, torch.from_numpy(reference.images))
    statistics = Statistics.of(features)
    tensors |= {"reference.mean": statistics.mean.float(), "reference.covariance": statistics.covariance.float()}
    about = {"format": "basis-features", "config": json.dumps(config), "reference": str(statistics.count)}
    checkpoint.save(path, tensors, notes | about)


def read(path: Path) -> tuple[FeatureNetwork, Statistics]:
    """The network, float32, and the reference statistics in a file that :func:`save` wrote.

    Raises:
        WeightsError: not such a file, or its tensors do not fit the network it describes.
    """
    hint = "basis train features makes one"
    with checkpoint.opened(path, "basis-features", "a feature network", hint) as (tensors, about):
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
        mean, covariance = (tensors.pop(f"reference.{name}").double() for name in ("mean", "covariance"))
        network = FeatureNetwork(**json.loads(about["config"]))
        network.load_state_dict(tensors)
        statistics = Statistics(mean, covariance, int(about["reference"]))
    return network.eval().requires_grad_(False), statistics


def cifar_realism(given: Path | None = None, device: str = "auto") -> Realism:
    """Measures ``cifar-FID``, to CIFAR-10's train split, and ``cifar-IS``, with the shipped network or a ``given`` one.

    The statistics of the train split are in the file, so no data set is needed.

    Raises:
        WeightsError: the file is missing, damaged or something else.
    """
    network, reference = read(weights.find(weights.FEATURES, given))
    return Realism(network.to(choose_device(device)), reference, "cifar-")


class Inception(nn.Module):
    """The Inception network of the published FID and IS, as torch-fidelity has it."""

    def __init__(self, extractor: nn.Module):
        super().__init__()
        self.extractor = extractor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(n, 1008)`` without bias and pooled features ``(n, 2048)`` of 8-bit pictures, given in [0, 1]."""
        features, logits = self.extractor(x.mul(255).round().byte())
        return logits, features


def inception_realism(path: Path, reference: Dataset, device: str = "auto") -> Realism:
    """Measures ``FID``, to the pictures of ``reference``, and ``IS``, with the Inception weights in ``path``.

    That is ``pt_inception-2015-12-05-6726825d.pth`` of pytorch-fid, loaded without unpickling code. Published figures
    for CIFAR-10 have its train split as the reference. Each call of this passes all of it through the network.

    Raises:
        UsageError: torch-fidelity is not installed, or ``reference`` is not RGB.
        WeightsError: the file cannot be read, or holds something else.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:  # RuntimeError: its torchvision is for another torch
        reason = textwrap.shorten(str(error), 160)
        hint = "pip install 'basis-cli[inception]'"
        raise UsageError(f"the Inception network needs torch-fidelity: {reason}", hint) from error
    if reference.shape[0] != 3:
        raise UsageError(f"FID needs RGB pictures, and {reference.name}'s are not")
    checked = io.BytesIO()  # torch-fidelity itself would unpickle anything
    try:
        torch.save(torch.load(path, map_location="cpu", weights_only=True), checked)
        checked.seek(0)
        extractor = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], checked)
    except Exception as error:  # a damaged pickle may raise anything
        reason = textwrap.shorten(str(error), 160)
        hint = "it should be pt_inception-2015-12-05-6726825d.pth"
        raise WeightsError(f"cannot read Inception weights from {path}: {reason}", hint) from error
    network = Inception(extractor).to(choose_device(device))
    _, features = features_of(network, torch.from_numpy(reference.images))
    return Realism(network, Statistics.of(features))


def train(
    data: Dataset,
    held_out: Dataset,
    out: Path,
    settings: training.Settings,
    *,
    widths: tuple[int, ...] = (64, 224, 256),
    device: str = "auto",
    resume: bool = False,
    notes: dict[str, str] | None = None,
    callback: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> Path:
    """Train a feature network to classify ``data`` and return its file, ``out/weights.safetensors``.

    ``metrics.jsonl`` gets the ``accuracy`` on ``held_out`` of the averaged network.

    Raises:
        UsageError: the pictures are not RGB or too small, or ``widths`` do not make a network.
        and what :func:`basis_cli.training.fit` raises.
    """
    smallest = 2 ** len(widths) + 1
    if data.shape[0] != 3 or min(data.shape[1:]) < smallest:
        raise UsageError(f"{data.name} has no RGB pictures of at least {smallest} pixels a side", "use cifar10")
    config: dict[str, Any] = {"widths": widths, "classes": int(data.labels.max()) + 1}
    torch.manual_seed(settings.seed)
    try:
        network = FeatureNetwork(**config)
    except ValueError as error:
        raise UsageError(str(error), "see basis train features --help") from error

    def evaluate(average: Any) -> dict[str, float]:
        right = accuracy(average, held_out)
        return {"accuracy": right, "held_out_loss": 1 - right}

    training.fit(
        network,
        classification_loss,
        data.images,
        settings,
        out,
        labels=data.labels,
        device=device,
        resume=resume,
        architecture=config,
        export=lambda average, path: save(path, average, config, data, notes or {}),
        evaluate=evaluate,
        callback=callback,
    )
    return out / "weights.safetensors"
