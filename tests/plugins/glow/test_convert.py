"""The published checkpoints of Glow: what TensorFlow reads of them becomes a network with the same density."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from basis_glow import convert, prior

from basis_cli.errors import UsageError, WeightsError

INDEX = Path("model_best_loss.ckpt.index")


class Reader:
    """What ``tensorflow.train.load_checkpoint`` returns, as far as it is used."""

    def __init__(self, arrays: dict[str, np.ndarray], damaged: str = ""):
        self.arrays, self.damaged = arrays, damaged

    def get_variable_to_shape_map(self) -> dict[str, list[int]]:
        return {name: list(array.shape) for name, array in self.arrays.items()}

    def get_tensor(self, name: str) -> np.ndarray:
        if name == self.damaged:
            raise RuntimeError("checksum does not match")
        return self.arrays[name]


@pytest.fixture
def tensorflow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """``tensorflow(reader)`` installs a TensorFlow that reads with it; the list that it returns gets what it opens."""

    def install(reader: Reader | Exception) -> list[str]:
        opened: list[str] = []

        def load_checkpoint(prefix: str) -> Reader:
            opened.append(prefix)
            if isinstance(reader, Exception):
                raise reader
            return reader

        module = SimpleNamespace(train=SimpleNamespace(load_checkpoint=load_checkpoint))
        monkeypatch.setitem(sys.modules, "tensorflow", module)
        return opened

    return install


def published(levels: int = 2, depth: int = 2, width: int = 6, channels: int = 3) -> dict[str, np.ndarray]:
    """Variables as openai/glow names and shapes them, filled at random, with Adam's and a step counter beside them."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int, scale: float = 0.1) -> None:
        arrays[f"model/{name}"] = (scale * rng.standard_normal(shape)).astype(np.float32)

    def actnorm(name: str, c: int) -> None:
        add(f"{name}_center/b", 1, 1, 1, c)
        add(f"{name}_scale/logs", 1, 1, 1, c)

    def zeros(name: str, inside: int, out: int) -> None:
        add(f"{name}/W", 3, 3, inside + 1, out)
        add(f"{name}/b", 1, 1, 1, out)
        add(f"{name}/logs", 1, out)

    c = channels
    for level in range(levels):
        c *= 4
        for step in range(depth):
            name = f"{level}/{step}"
            actnorm(f"{name}/actnorm", c)
            arrays[f"model/{name}/invconv/W"] = np.linalg.qr(rng.standard_normal((c, c)))[0].astype(np.float32) * 1.1
            add(f"{name}/f1/l_1/W", 3, 3, c // 2 + 1, width)
            actnorm(f"{name}/f1/l_1/actnorm", width)
            add(f"{name}/f1/l_2/W", 1, 1, width, width, scale=0.5)
            actnorm(f"{name}/f1/l_2/actnorm", width)
            zeros(f"{name}/f1/l_last", width, c)
        if level + 1 < levels:
            c //= 2
            zeros(f"pool{level}/conv", c, 2 * c)
    zeros("prior/p", 2 * c, 2 * c)
    adam = {f"{name}_adam_m2": array**2 for name, array in arrays.items()}
    return arrays | adam | {"global_step": np.array(7, np.int64)}


def log_prob_as_published(v: dict[str, np.ndarray], x: np.ndarray, levels: int = 2, depth: int = 2) -> np.ndarray:
    """The density of ``x`` ``(n, h, w, c)`` in [-1/2, 1/2], step by step from the paper's equations, in float64."""

    def get(name: str) -> np.ndarray:
        return v[f"model/{name}"].astype(np.float64)

    def conv(h: np.ndarray, name: str) -> np.ndarray:
        kernel = get(f"{name}/W")
        if kernel.shape[0] == 3:
            n, height, width, _ = h.shape
            edge = np.ones((n, height + 2, width + 2, 1))
            edge[:, 1:-1, 1:-1] = 0
            h = np.concatenate([np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0))), edge], 3)
            return sum(h[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))
        return h @ kernel[0, 0]

    def actnorm(h: np.ndarray, name: str) -> np.ndarray:
        return (h + get(f"{name}_center/b")) * np.exp(3 * get(f"{name}_scale/logs"))

    def zeros(h: np.ndarray, name: str) -> np.ndarray:
        return (conv(h, name) + get(f"{name}/b")) * np.exp(3 * get(f"{name}/logs"))

    def gaussian(z: np.ndarray, mean: np.ndarray, logs: np.ndarray) -> np.ndarray:
        return (-0.5 * (np.log(2 * np.pi) + 2 * logs + (z - mean) ** 2 / np.exp(2 * logs))).sum((1, 2, 3))

    def squeeze(z: np.ndarray) -> np.ndarray:
        n, h, w, c = z.shape
        return z.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(n, h // 2, w // 2, 4 * c)

    total, z = np.zeros(len(x)), squeeze(x)
    for level in range(levels):
        for step in range(depth):
            name, positions = f"{level}/{step}", z.shape[1] * z.shape[2]
            z = actnorm(z, f"{name}/actnorm")
            total += 3 * get(f"{name}/actnorm_scale/logs").sum() * positions
            z = z @ get(f"{name}/invconv/W")
            total += np.linalg.slogdet(get(f"{name}/invconv/W"))[1] * positions
            z1, z2 = np.split(z, 2, axis=3)
            h = np.maximum(actnorm(conv(z1, f"{name}/f1/l_1"), f"{name}/f1/l_1/actnorm"), 0)
            h = np.maximum(actnorm(conv(h, f"{name}/f1/l_2"), f"{name}/f1/l_2/actnorm"), 0)
            h = zeros(h, f"{name}/f1/l_last")
            scale = 1 / (1 + np.exp(-(h[..., 1::2] + 2)))
            z = np.concatenate([z1, (z2 + h[..., 0::2]) * scale], 3)
            total += np.log(scale).sum((1, 2, 3))
        if level + 1 < levels:
            z1, z2 = np.split(z, 2, axis=3)
            h = zeros(z1, f"pool{level}/conv")
            total += gaussian(z2, h[..., 0::2], h[..., 1::2])
            z = squeeze(z1)
    h = zeros(np.zeros((*z.shape[:3], 2 * z.shape[3])), "prior/p")
    return total + gaussian(z, *np.split(h, 2, axis=3))


def test_a_converted_checkpoint_has_the_published_density(tmp_path, tensorflow):
    arrays = published()
    opened = tensorflow(Reader(arrays, damaged="model/0/0/invconv/W_adam_m2"))  # the optimizer's state is not read
    out = tmp_path / "out.safetensors"
    about = convert.convert(INDEX, out, 8, 0.01)
    assert opened == ["model_best_loss.ckpt"]
    assert about.pop("parameters") > 1000
    assert about.pop("ladder") == tmp_path / "ladder.json"
    assert about == {"shape": (3, 8, 8), "levels": 2, "depth": 2, "width": 6, "conditional": False}
    net, sigma = prior.read(out)
    assert sigma == 0.01
    x = np.random.default_rng(1).random((3, 8, 8, 3))
    theirs = log_prob_as_published(arrays, (255 * x + 0.5) / 256 - 0.5) + x[0].size * math.log(255 / 256)
    ours = net(torch.from_numpy(x.transpose(0, 3, 1, 2)).float())
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-5, atol=2e-3)


def without(*names: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in published().items() if name not in names}


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (lambda: {"a": np.zeros(3, np.float32)}, "model/0/0/f1/l_2/W is missing"),
        (lambda: without("model/1/1/invconv/W"), "model/1/1/invconv/W is missing"),
        (lambda: published() | {"model/prior/y_emb/W": np.zeros((10, 4), np.float32)}, "conditional on classes"),
        (lambda: published() | {"model/0/1/f1/l_last/W": np.zeros((3, 3, 7, 6), np.float32)}, "has shape"),
        (lambda: published() | {"model/prior/p/b": np.full((1, 1, 1, 48), np.nan, np.float32)}, "is not finite"),
    ],
)
def test_convert_names_what_does_not_fit(tmp_path, tensorflow, arrays, reason):
    tensorflow(Reader(arrays()))
    with pytest.raises(WeightsError, match=reason) as caught:
        convert.convert(INDEX, tmp_path / "out.safetensors", 8)
    assert "affine couplings" in caught.value.hint
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "reader", [RuntimeError("no such file"), Reader(published(), damaged="model/prior/p/W")], ids=["opening", "reading"]
)
def test_convert_refuses_damaged_checkpoints(tmp_path, tensorflow, reader):
    tensorflow(reader)
    with pytest.raises(WeightsError, match=r"cannot read the checkpoint model_best_loss\.ckpt\.index") as caught:
        convert.convert(INDEX, tmp_path / "out.safetensors", 8)
    assert caught.value.hint
    assert not any(tmp_path.iterdir())


def test_without_tensorflow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UsageError, match=r"basis-cli\[tensorflow\]"):
        convert.convert(INDEX, tmp_path / "out.safetensors")


def test_what_tensorflow_writes_is_read(tmp_path):
    train = pytest.importorskip("tensorflow").compat.v1.train
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [
            tf.compat.v1.get_variable(name, initializer=array, use_resource=False)
            for name, array in published().items()
        ]
        session.run(tf.compat.v1.global_variables_initializer())
        prefix = train.Saver(variables).save(session, str(tmp_path / "model.ckpt"))
    assert convert.convert(Path(f"{prefix}.index"), tmp_path / "out.safetensors", 8)["width"] == 6
