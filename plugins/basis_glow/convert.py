"""``basis weights convert glow``: the checkpoints of openai/glow, read with TensorFlow.

Their variables, pictures and kernels having the channels last, are for level ``l`` and step ``s``::

    model/l/s/actnorm_center/b, model/l/s/actnorm_scale/logs      (1, 1, 1, c)
    model/l/s/invconv/W                                           (c in, c out)
    model/l/s/f1/l_1/W                                            (3, 3, c/2 + 1, width)
    model/l/s/f1/l_2/W                                            (1, 1, width, width)
    model/l/s/f1/l_1/actnorm_center/b, .../actnorm_scale/logs     (1, 1, 1, width), the same under l_2
    model/l/s/f1/l_last/W, b, logs                                (3, 3, width + 1, c), (1, 1, 1, c), (1, c)
    model/pool<l>/conv/W, b, logs                                 (3, 3, c/2 + 1, c), (1, 1, 1, c), (1, c)
    model/prior/p/W, b, logs                                      (3, 3, 2c + 1, 2c), (1, 1, 1, 2c), (1, 2c)

The last input channel of a 3 x 3 kernel belongs to the plane that is one on the padding. What leaves ``l_last`` and
``conv`` alternates between shift (mean) and scale; ``prior`` has all means first. It sees a picture of zeros, so of
its kernel only the last input channel counts. Intensities are ``k / 256 - 1/2 + u / 256`` with ``u`` uniform in [0, 1),
which is ``255/256`` times ours: the first actnorm takes that up.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from basis_cli.api import UsageError, WeightsError

from .layers import NormalizedConv
from .network import Glow
from .prior import add_rung, save


def _open(checkpoint: Path) -> Any:
    """TensorFlow's reader of ``checkpoint``: its index, or the prefix of its files."""
    try:
        import tensorflow
    except ImportError as error:
        hint = "pip install 'basis-cli[tensorflow]'"
        raise UsageError("the authors' checkpoints of Glow are read with TensorFlow", hint) from error
    try:
        return tensorflow.train.load_checkpoint(str(checkpoint).removesuffix(".index"))
    except Exception as error:  # TensorFlow has error classes of its own
        raise _unreadable(checkpoint, error) from error


def _unreadable(checkpoint: Path, error: Exception) -> WeightsError:
    return WeightsError(f"cannot read the checkpoint {checkpoint}: {error}", "is the download complete?")


class _Variables:
    """The checkpoint's variables as float32 tensors; only those that are asked for are read."""

    def __init__(self, checkpoint: Path):
        self.checkpoint, self.reader = checkpoint, _open(checkpoint)
        self.shapes: dict[str, list[int]] = self.reader.get_variable_to_shape_map()

    def __call__(self, name: str, *shape: int) -> Tensor:
        """The variable ``model/name``, reshaped. Raises ``ValueError`` if it is missing or of another size."""
        found = self.shape(name)
        if math.prod(found) != math.prod(shape):
            raise ValueError(f"model/{name} has shape {tuple(found)}, not {shape}")
        try:
            array = self.reader.get_tensor(f"model/{name}")
        except Exception as error:  # as above: what is damaged shows when it is read
            raise _unreadable(self.checkpoint, error) from error
        tensor = torch.from_numpy(np.array(array, np.float32)).reshape(shape)
        if not torch.isfinite(tensor).all():
            raise ValueError(f"model/{name} is not finite")
        return tensor

    def shape(self, name: str) -> list[int]:
        """The shape of ``model/name``. Raises ``ValueError`` if it is missing."""
        if f"model/{name}" not in self.shapes:
            raise ValueError(f"model/{name} is missing")
        return self.shapes[f"model/{name}"]


def _apart(x: Tensor) -> Tensor:
    """Channels that alternate along the first axis, sorted: first one kind, then the other."""
    return torch.cat([x[0::2], x[1::2]])


def _set(parameter: nn.Parameter | Tensor | None, value: Tensor) -> None:
    assert parameter is not None
    parameter.copy_(value)


def _fill(conv: NormalizedConv, name: str, variables: _Variables) -> None:
    """Copy the convolution ``name``, with the actnorm behind it."""
    out, inside, size, _ = conv.weight.shape
    planes = inside + (conv.edge is not None)
    kernel = variables(f"{name}/W", size, size, planes, out).permute(3, 2, 0, 1)
    bias, logs = (f"{name}/b", f"{name}/logs") if conv.zero else _actnorm(f"{name}/actnorm")
    order = _apart if conv.zero else torch.clone
    _set(conv.weight, order(kernel[:, :inside]))
    if conv.edge is not None:
        _set(conv.edge, order(kernel[:, inside:]))
    _set(conv.norm.bias, order(variables(bias, out)))
    _set(conv.norm.logs, order(variables(logs, out)))


def _actnorm(name: str) -> tuple[str, str]:
    return f"{name}_center/b", f"{name}_scale/logs"


@torch.no_grad()
def _network(variables: _Variables, size: int) -> Glow:
    """The network that ``variables`` make. Raises ``ValueError`` naming the first misfit."""
    width, channels = variables.shape("0/0/f1/l_2/W")[-1], variables.shape("0/0/actnorm_center/b")[-1] // 4
    if "model/prior/y_emb/W" in variables.shapes:
        raise ValueError("it is conditional on classes (model/prior/y_emb/W)")
    steps = [map(int, m.groups()) for m in (re.match(r"model/(\d+)/(\d+)/", name) for name in variables.shapes) if m]
    levels, depth = (1 + max(numbers) for numbers in zip(*steps, strict=True))
    network = Glow((channels, size, size), levels, depth, width)
    step: Any
    for i, level in enumerate(network.levels):
        for j, step in enumerate(level):  # type: ignore[arg-type]
            name, channels = f"{i}/{j}", len(step.actnorm.bias)
            bias, logs = (variables(part, channels) for part in _actnorm(f"{name}/actnorm"))
            _set(step.actnorm.bias, bias)
            _set(step.actnorm.logs, logs)
            step.mix.set(variables(f"{name}/invconv/W", channels, channels).T)
            convs = (step.coupling.conv1, "l_1"), (step.coupling.conv2, "l_2"), (step.coupling.conv3, "l_last")
            for conv, part in convs:
                _fill(conv, f"{name}/f1/{part}", variables)
    for i, split in enumerate(network.splits):
        _fill(split, f"pool{i}/conv", variables)  # type: ignore[arg-type]
    channels = network.top.shape[1]
    kernel = variables("prior/p/W", 3, 3, channels + 1, channels).permute(3, 2, 0, 1)[:, -1:]
    top = NormalizedConv(1, channels, 3, 0, zero=True)
    _set(top.edge, kernel)
    _set(network.top, top.outside(network.top))
    _set(network.top_norm.bias, variables("prior/p/b", channels))
    _set(network.top_norm.logs, variables("prior/p/logs", channels))
    scale = 255 / 256
    start = network.levels[0][0].actnorm  # type: ignore[index]
    start.bias /= scale
    start.logs += math.log(scale) / 3
    return network


def convert(index: Path, out: Path, size: int | None = None, sigma: float | None = None) -> dict[str, Any]:
    """Convert the checkpoint with the index file ``index`` to ``out``, a file for :func:`basis_glow.prior.read`.

    Levels, depth, width and channels are read off the variables; the pictures' ``size`` is 32 unless given. Weights
    stay float32, so the densities are the authors'. With ``sigma``, the noise level that the model was fine-tuned at
    (0: not at all), the file is also entered into the ladder of its folder.

    Returns:
        The network's arguments, how many ``parameters`` there are and, with ``sigma``, the ``ladder``'s path.

    Raises:
        UsageError: TensorFlow is not installed.
        WeightsError: no such checkpoint, damaged, or of another network: only affine couplings and 1 x 1 convolutions
            without classes can be converted.
        BasisError: ``out`` cannot be written.
    """
    variables = _Variables(index)
    try:
        network = _network(variables, size or 32)
    except ValueError as error:
        hint = "only Glow with affine couplings and 1 x 1 convolutions, without classes, can be converted"
        raise WeightsError(f"{index} is of another network: {error}", hint) from error
    save(out, network, sigma or 0.0, {"source": index.name}, torch.float32)
    about = network.config | {"parameters": sum(p.numel() for p in network.parameters())}
    return about if sigma is None else about | {"ladder": add_rung(out, sigma, network.shape)}
