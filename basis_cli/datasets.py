"""Real data sets from their standard files, and the mixtures drawn from them. Nothing is ever downloaded."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import InputError, UsageError


@dataclass(frozen=True)
class Dataset:
    """Pictures ``(n, c, h, w)`` uint8 with integer class ``labels`` ``(n,)``."""

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        return self.images.shape[1:]  # type: ignore[return-value]


def _idx(folder: Path, stem: str) -> np.ndarray:
    """One IDX file of unsigned bytes (LeCun's format), gzipped or not."""
    for path in (folder / f"{stem}.gz", folder / stem):
        if path.is_file():
            break
    else:
        raise FileNotFoundError(folder / f"{stem}.gz")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, dimensions = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{dimensions}I", raw, 4)
        if (zeros, kind) != (0, 8):
            raise ValueError("not an IDX file of unsigned bytes")
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise InputError(f"{path}: {error}", "is the download complete?") from error


def _mnist(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    stem = {"train": "train", "test": "t10k"}[split]
    return _idx(folder, f"{stem}-images-idx3-ubyte")[:, None], _idx(folder, f"{stem}-labels-idx1-ubyte")


def _cifar10(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The binary version: records of a label byte and 3 x 32 x 32 bytes, planes red, green, blue."""
    folder = next(
        (sub for sub in (folder / "cifar-10-batches-bin", folder) if (sub / "test_batch.bin").is_file()), folder
    )
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    records = []
    for path in (folder / name for name in names):
        raw = np.fromfile(path, np.uint8)
        if not len(raw) or len(raw) % 3073:
            raise InputError(f"{path}: {len(raw)} bytes are not records of 3,073", "is the download complete?")
        records.append(raw.reshape(-1, 3073))
    together = np.concatenate(records)
    return together[:, 1:].reshape(-1, 3, 32, 32), together[:, 0]


_READERS: dict[str, tuple[Callable[[Path, str], tuple[np.ndarray, np.ndarray]], str]] = {
    "mnist": (_mnist, "the four files train-images-idx3-ubyte.gz, ..., t10k-labels-idx1-ubyte.gz"),
    "cifar10": (_cifar10, "cifar-10-batches-bin/ of the binary version: data_batch_1.bin, ..., test_batch.bin"),
}


def load_dataset(name: str, split: str, data_dir: Path | None = None) -> Dataset:
    """Read ``name``'s standard files from ``data_dir``, else from the folder that ``BASIS_DATA`` names.

    The files may lie in the folder itself or in a sub-folder called after the data set.

    Raises:
        UsageError: unknown data set, or no folder given.
        InputError: files missing or damaged.
    """
    if name not in _READERS:
        raise UsageError(f"no data set is called {name!r}", f"known: {', '.join(_READERS)}")
    root = data_dir or (Path(os.environ["BASIS_DATA"]) if os.environ.get("BASIS_DATA") else None)
    if root is None:
        raise UsageError(f"where is {name}?", "give --data-dir or set BASIS_DATA")
    read, files = _READERS[name]
    for folder in (root / name, root):
        try:
            images, labels = read(folder, split)
        except FileNotFoundError:
            continue
        if len(images) != len(labels):
            raise InputError(f"{folder}: {len(images)} pictures but {len(labels)} labels")
        return Dataset(name, split, images, labels)
    raise InputError(f"{name}'s files are not in {root}", f"put there {files}")


PROTOCOLS = ("class-agnostic", "class-split")


def mixture_indices(labels: np.ndarray, k: int, count: int, protocol: str, seed: int) -> np.ndarray:
    """Which pictures make each of ``count`` mixtures: ``(count, k)`` indices, distinct within a row.

    ``class-agnostic`` draws k distinct pictures; ``class-split`` one from the lower and one from the upper half of
    the classes (digits 0-4 and 5-9), section 5 of the paper. Row ``i`` is the same whatever ``count`` is.

    Raises:
        UsageError: unknown protocol, or ``class-split`` with k other than 2, or too few pictures.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"no protocol is called {protocol!r}", f"known: {', '.join(PROTOCOLS)}")
    if protocol == "class-split":
        if k != 2:
            raise UsageError(f"class-split mixes two pictures, not {k}", "use --protocol class-agnostic")
        middle = (int(labels.max()) + 1) // 2
        groups = [np.flatnonzero(labels < middle), np.flatnonzero(labels >= middle)]
    else:
        groups = [np.arange(len(labels))]
    if min(map(len, groups)) < max(k, 1):
        raise UsageError(f"{len(labels)} pictures are too few for mixtures of {k}")
    rows = []
    for row in range(count):
        rng = np.random.default_rng((seed, row))
        if len(groups) == 1:
            rows.append(rng.choice(groups[0], k, replace=False))
        else:
            rows.append(np.array([rng.choice(group) for group in groups]))
    return np.stack(rows)
