"""Checkpoints of the published Glow, as TensorFlow writes them."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from basis_glow import convert, prior

from basis_cli.errors import BasisError, WeightsError

TINY = {"levels": 2, "depth": 2, "width": 8}


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: list[tuple[bytes, bytes]], every: int = 4) -> bytes:
    """A table block: keys as what differs from the one before, with a fresh start every few."""
    out, before, restarts = b"", b"", []
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % every == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return out + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def snappy(data: bytes) -> bytes:
    """Snappy's format: literals of up to 70 bytes, and copies of eight bytes that occurred before."""
    out, at, literal = varint(len(data)), 0, b""

    def flush() -> bytes:
        n = len(literal) - 1
        head = b"" if n < 0 else bytes([n << 2]) if n < 60 else bytes([60 << 2, n])
        return head + literal

    while at < len(data):
        found = data.rfind(data[at : at + 8], 0, at)
        if found >= 0 and len(data) - at >= 8:
            back = at - found
            out += flush()
            if back < 2048:
                out += bytes([1 | (8 - 4) << 2 | back >> 8 << 5, back & 0xFF])
            else:
                out += bytes([2 | (8 - 1) << 2]) + struct.pack("<H", back)
            literal, at = b"", at + 8
            continue
        literal, at = literal + data[at : at + 1], at + 1
        if len(literal) == 70:
            out, literal = out + flush(), b""
    return out + flush()


def write_checkpoint(prefix: Path, arrays: dict[str, np.ndarray], compressed: bool = False, shards: int = 2) -> Path:
    """A checkpoint of version 2, as TensorFlow writes it, its values in several shards."""
    data = [b""] * shards
    entries = [(b"", field(1, shards) + field(3, field(1, 1)))]
    for i, (name, array) in enumerate(sorted(arrays.items())):
        shard = i % shards
        shape = b"".join(field(2, field(1, side)) for side in array.shape)
        kind = {"f": 1, "d": 2, "i": 3, "l": 9, "q": 9, "S": 7}[array.dtype.char]
        raw = array.tobytes()
        entry = field(1, kind) + field(2, shape) + (field(3, shard) if shard else b"") + field(4, len(data[shard]))
        entry += field(5, len(raw)) + varint(6 << 3 | 5) + b"\0\0\0\0"
        entries.append((name.encode(), entry))
        data[shard] += raw
    table, index = b"", []
    for first in range(0, len(entries), 10):
        part = entries[first : first + 10]
        content = snappy(block(part)) if compressed else block(part)
        index.append((part[-1][0], varint(len(table)) + varint(len(content))))
        table += content + bytes([compressed]) + b"\0\0\0\0"
    handles = []
    for content in (block([]), block(index, every=1)):
        handles.append(varint(len(table)) + varint(len(content)))
        table += content + b"\0" * 5
    table += b"".join(handles).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    for i, raw in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{i:05d}-of-{shards:05d}").write_bytes(raw)
    path = prefix.with_name(prefix.name + ".index")
    path.write_bytes(table)
    return path


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


@pytest.mark.parametrize("compressed", [False, True])
def test_a_checkpoint_reads_back(tmp_path, compressed):
    arrays = published() | {"name": np.array(b"text"), "empty": np.zeros((0, 3), np.float32)}
    found = convert.read_checkpoint(write_checkpoint(tmp_path / "m.ckpt", arrays, compressed))
    assert found.keys() == arrays.keys() - {"name"}
    for name, array in found.items():
        np.testing.assert_array_equal(array, arrays[name])


def test_a_converted_checkpoint_has_the_published_density(tmp_path):
    arrays = published()
    index = write_checkpoint(tmp_path / "m.ckpt", arrays)
    out = tmp_path / "out.safetensors"
    about = convert.convert(index, out, 8, 0.01)
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
def test_convert_names_what_does_not_fit(tmp_path, arrays, reason):
    index, out = write_checkpoint(tmp_path / "m.ckpt", arrays()), tmp_path / "out.safetensors"
    with pytest.raises(WeightsError, match=reason) as caught:
        convert.convert(index, out, 8)
    assert "affine couplings" in caught.value.hint
    assert not out.exists()


@pytest.mark.parametrize("damage", ["missing", "text", "cut index", "cut data", "no data", "flipped"])
def test_convert_refuses_damaged_checkpoints(tmp_path, damage):
    index = write_checkpoint(tmp_path / "m.ckpt", published())
    shard = tmp_path / "m.ckpt.data-00001-of-00002"
    whole = index.read_bytes()
    if damage == "missing":
        index.unlink()
    elif damage == "no data":
        shard.unlink()
    elif damage == "cut data":
        shard.write_bytes(shard.read_bytes()[:-4])
    else:
        cut = whole[: len(whole) // 2]
        index.write_bytes(
            {"text": b"<html>404</html>" * 9, "cut index": cut, "flipped": b"\xff" * 90 + whole[90:]}[damage]
        )
    with pytest.raises(WeightsError, match=r"m\.ckpt\.index") as caught:
        convert.convert(index, tmp_path / "out.safetensors", 8)
    assert isinstance(caught.value, BasisError)
    assert caught.value.hint
