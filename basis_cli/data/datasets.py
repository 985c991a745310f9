"""Real data sets from their standard files, and the mixtures drawn from them. Nothing is ever downloaded."""

from __future__ import annotations

import gzip
import os
import struct
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import plugins
from ..data import images
from ..errors import InputError, InputWarning, UsageError

UPPER = {"cifar10": (0, 1, 8, 9)}  # aeroplanes, cars, ships, lorries; the others are animals (the paper, section 5)


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

    @property
    def upper(self) -> np.ndarray:
        """Which pictures belong to the second half of the classes, ``(n,)``: digits 5-9, CIFAR-10's machines."""
        classes = UPPER.get(self.name)
        return self.labels >= (int(self.labels.max()) + 1) // 2 if classes is None else np.isin(self.labels, classes)

    def __getitem__(self, which: Any) -> Tensor:
        """The pictures ``which`` (any index) as float32 in [0, 1], ``(..., c, h, w)``."""
        return torch.from_numpy(self.images[which].astype(np.float32) / 255)


@dataclass(frozen=True)
class Squares:
    """How pictures of any size and kind become a data set's, see :func:`basis_cli.data.images.square`.

    Raises:
        UsageError: a number below 1, or a ``crop`` smaller than ``size``.
    """

    size: int = 64
    """Side in pixels. Smaller pictures are left out."""
    crop: int | None = None
    """Side of the square that is cut from the middle before shrinking; ``None``: as large as the picture allows."""
    gray: bool = False
    limit: int | None = None
    """At most so many pictures of a split, evenly spread over it."""

    def __post_init__(self) -> None:
        if min(self.size, 1 if self.limit is None else self.limit) < 1:
            raise UsageError("--size and --limit must be at least 1")
        if self.crop is not None and self.crop < self.size:
            raise UsageError(f"a square of {self.crop} pixels cannot be shrunk to {self.size}", "a larger --crop")


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


def _files(folder: Path, split: str) -> list[Path]:
    """The picture files of a split, sorted: those in its own folder, else every 20th is for testing."""
    tests = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
    separate = bool(tests) and (folder / "train").is_dir()
    if separate:
        folder = folder / "train" if split == "train" else tests[0]
    files = images.files_in(folder, recursive=True)
    if separate:
        return files
    return [path for i, path in enumerate(files) if (i % 20 == 0) == (split == "test")]


def _squared(what: str, keys: Sequence[Any], source: Callable[[Any], Path | bytes], how: Squares) -> np.ndarray:
    """The pictures called ``keys`` that can be used, ``(n, c, size, size)``.

    Raises:
        InputError: there is none.
    """
    if how.limit and how.limit < len(keys):
        keys = [keys[i * len(keys) // how.limit] for i in range(how.limit)]
    channels = 1 if how.gray else 3

    def made(key: Any) -> np.ndarray | None:
        try:
            return images.square(source(key), how.size, how.crop, channels)
        except InputError:
            return None

    pictures = np.empty((len(keys), channels, how.size, how.size), np.uint8)
    count = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for picture in pool.map(made, keys):
            if picture is not None:
                pictures[count] = picture
                count += 1
    unusable = f"damaged, or smaller than {how.crop or how.size} pixels"
    if not count:
        reason = f"{len(keys)} files are {unusable}" if keys else "there are no picture files"
        raise InputError(f"{what} holds nothing to learn from: {reason}", f"known: {', '.join(images.ENDINGS)}")
    if count < len(keys):
        message = f"{what}: {len(keys) - count} of {len(keys)} pictures are left out: {unusable}"
        warnings.warn(message, InputWarning, stacklevel=2)
    return pictures[:count]


def _lsun(category: str, how: Squares, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """LSUN's own LMDB files, which hold encoded pictures; the validation split is for testing."""
    path = folder / f"{category}_{'train' if split == 'train' else 'val'}_lmdb"
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        import lmdb
    except ImportError:
        raise UsageError("LSUN's files need lmdb", "pip install 'basis-cli[lsun]'") from None
    try:
        with lmdb.open(str(path), readonly=True, lock=False, readahead=False) as database:

            def encoded(key: bytes) -> bytes:
                with database.begin() as transaction:
                    return transaction.get(key, b"")

            with database.begin() as transaction:
                keys = list(transaction.cursor().iternext(values=False))
            pictures = _squared(path.name, keys, encoded, how)
    except lmdb.Error as error:
        raise InputError(f"{path}: {error}", "is the download complete?") from error
    return pictures, np.zeros(len(pictures), np.uint8)


Reader = Callable[[Path, str], tuple[np.ndarray, np.ndarray]]
_READERS: dict[str, tuple[Reader, str]] = {
    "mnist": (_mnist, "the four files train-images-idx3-ubyte.gz, ..., t10k-labels-idx1-ubyte.gz"),
    "cifar10": (_cifar10, "cifar-10-batches-bin/ of the binary version: data_batch_1.bin, ..., test_batch.bin"),
}


def load_dataset(name: str, split: str, data_dir: Path | None = None, squares: Squares | None = None) -> Dataset:
    """Read the split (``train`` or ``test``) of a data set.

    ``mnist``, ``cifar10`` and ``lsun:CATEGORY`` are read from their standard files in ``data_dir``, else in the folder
    that ``BASIS_DATA`` names; they may lie in the folder itself or in a sub-folder called after the data set. Any other
    name is that of a folder of pictures: its sub-folders ``train`` and ``test`` (or ``val``) if it has both, else every
    20th picture in sorted order is for testing. Pictures of LSUN and of folders become ``squares``, all of one class.

    Warns:
        InputWarning: some pictures could not be used.

    Raises:
        UsageError: unknown data set, no folder given, or a package is missing.
        InputError: files missing or damaged, or no picture that can be used.
    """
    squares = squares or Squares()
    kind, _, category = name.partition(":")
    offered = plugins.datasets()
    if name not in _READERS and name not in offered and kind != "lsun":
        if not os.path.isdir(name):
            known = f"known: {', '.join([*_READERS, *offered])}, lsun:CATEGORY, or a folder of pictures"
            raise UsageError(f"no data set is called {name!r}", known)
        pictures = _squared(f"{name} ({split})", _files(Path(name), split), Path, squares)
        return Dataset(Path(name).resolve().name, split, pictures, np.zeros(len(pictures), np.uint8))
    root = data_dir or (Path(os.environ["BASIS_DATA"]) if os.environ.get("BASIS_DATA") else None)
    if root is None:
        raise UsageError(f"where is {name}?", "give --data-dir or set BASIS_DATA")
    read: Reader
    if kind == "lsun":
        read, files = partial(_lsun, category, squares), f"{category}_train_lmdb and {category}_val_lmdb"
    elif name in _READERS:
        read, files = _READERS[name]
    else:
        read, files = plugins.resolve(offered[name]), "what its plugin says"
    for folder in (root / kind, root):
        try:
            pictures, labels = read(folder, split)
        except FileNotFoundError:
            continue
        if len(pictures) != len(labels):
            raise InputError(f"{folder}: {len(pictures)} pictures but {len(labels)} labels")
        return Dataset(name, split, pictures, labels)
    raise InputError(f"{name}'s files are not in {root}", f"put there {files}")


def joined(data: Sequence[Dataset]) -> Dataset:
    """Several data sets as one, of one class, shuffled so that its first pictures are of all.

    Raises:
        UsageError: pictures of different shapes.
    """
    if len(data) == 1:
        return data[0]
    if len({each.shape for each in data}) > 1:
        shapes = ", ".join(f"{each.name} {each.shape}" for each in data)
        raise UsageError(f"pictures of different shapes: {shapes}", "--size makes those of folders alike")
    pictures = np.concatenate([each.images for each in data])
    order = np.random.default_rng(0).permutation(len(pictures))
    name = " + ".join(each.name for each in data)
    return Dataset(name, data[0].split, pictures[order], np.zeros(len(pictures), np.uint8))


PROTOCOLS = ("class-agnostic", "class-split", "ms-vae")


def mixture_indices(data: Dataset, k: int, count: int, protocol: str, seed: int) -> np.ndarray:
    """Which pictures make each of ``count`` mixtures: ``(count, k)`` indices, distinct within a row.

    ``class-agnostic`` draws k distinct pictures; ``class-split`` one from each half of the classes (digits 0-4 with
    5-9, CIFAR-10's animals with machines), section 5 of the paper; ``ms-vae`` one each of k distinct classes (Boukun &
    Lücke 2026). Row ``i`` is the same whatever ``count`` is.

    Raises:
        UsageError: unknown protocol, or ``class-split`` with k other than 2, or too few pictures or classes.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"no protocol is called {protocol!r}", f"known: {', '.join(PROTOCOLS)}")
    if protocol == "class-split" and k != 2:
        raise UsageError(f"class-split mixes two pictures, not {k}", "use --protocol class-agnostic")
    groups = {
        "class-agnostic": lambda: [np.arange(len(data.labels))],
        "class-split": lambda: [np.flatnonzero(~data.upper), np.flatnonzero(data.upper)],
        "ms-vae": lambda: [np.flatnonzero(data.labels == label) for label in np.unique(data.labels)],
    }[protocol]()
    if protocol == "ms-vae" and len(groups) < k:
        raise UsageError(f"{len(groups)} classes are too few for mixtures of {k} distinct ones")
    if min(map(len, groups)) < (max(k, 1) if len(groups) == 1 else 1):
        raise UsageError(f"{len(data.labels)} pictures are too few for mixtures of {k}")
    rows = []
    for row in range(count):
        rng = np.random.default_rng((seed, row))
        if protocol == "class-agnostic":
            rows.append(rng.choice(groups[0], k, replace=False))
        else:
            chosen = rng.choice(len(groups), k, replace=False) if protocol == "ms-vae" else range(k)
            rows.append(np.array([rng.choice(groups[i]) for i in chosen]))
    return np.stack(rows)


def one_of_each(data: Sequence[Dataset], count: int, seed: int) -> np.ndarray:
    """``(count, k)`` indices, one into each of k data sets: every picture of the smallest is used before any comes
    again. Row ``i`` is the same whatever ``count`` is."""
    orders = [np.random.default_rng((seed, i)).permutation(len(each.images)) for i, each in enumerate(data)]
    return np.stack([np.resize(order, count) for order in orders], axis=1)
