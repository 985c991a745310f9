"""Finds a file of weights by name and checks its SHA-256 before anything reads it. Never imports torch."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import platformdirs

from .api import PosteriorSpec, PriorSpec, WeightFile
from .errors import UsageError, WeightsError
from .plugins import resolve

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MANIFEST = "manifest.toml"
_HERE = Path(__file__).parent
SHIPPED = _HERE / "weights" if (_HERE / "weights").is_dir() else _HERE.parent / "weights"  # in a wheel; in a checkout

FEATURES = WeightFile("cifar-features.safetensors")
"""The network behind cifar-FID and cifar-IS; see :mod:`basis_cli.evaluation.features`."""


@dataclass(frozen=True)
class Entry:
    """What a ``manifest.toml`` says of a file."""

    name: str
    sha256: str
    bytes: int
    licence: str
    card: str
    """File name of the model card, beside the manifest."""


def find(weights: WeightFile, given: Path | None = None) -> Path:
    """The verified file that ``weights`` names, or ``given``, which is the user's own and is taken as it is.

    Raises:
        WeightsError: not there, of another SHA-256 than stated, or none is stated anywhere.
    """
    if given is not None:
        if not os.path.isfile(given):
            raise WeightsError(f"there is no file of weights at {given}", "check the path")
        return given
    path = locate(weights)
    if path is None:
        fetch = "`basis weights pull PRIOR` downloads it" if weights.url else "reinstall the package that ships it"
        raise WeightsError(f"{weights.file} is missing", f"{fetch}, or put it in a folder named in BASIS_WEIGHTS")
    _verify(path, _stated_sha256(weights, path), weights)
    return path


def of(spec: PriorSpec | PosteriorSpec, given: Path | None = None) -> Path | None:
    """The verified weights of a prior or a direct model; or the user's own, ``given`` or named with the prior.

    Raises:
        UsageError: they are given twice.
        WeightsError: as for :func:`find`.
    """
    if isinstance(spec, PriorSpec) and spec.own:
        if given is not None:
            raise UsageError(f"{spec.name} names its weights itself", "leave out --weights")
        given = own(spec)
    return find(spec.weights, given) if spec.weights else given


def own(spec: PriorSpec, download: bool = False) -> Path:
    """The file of weights that ``name:own`` names.

    Raises:
        UsageError: it can only be read, and it is to be downloaded.
        WeightsError: it is not there, or cannot be downloaded.
    """
    if spec.find:
        return resolve(spec.find)(spec.own, download)  # type: ignore[no-any-return]
    if download:
        raise UsageError(f"{spec.own} is a file of yours", "`basis weights pull` takes the name of a prior")
    if not os.path.isfile(spec.own):
        raise WeightsError(f"there is no file of weights at {spec.own}", "check the path")
    return Path(spec.own)


def locate(weights: WeightFile) -> Path | None:
    """Where the file lies, not yet verified; ``None`` if nowhere.

    Looked for in the folders of ``$BASIS_WEIGHTS``, the plugin's own folder, the shipped weights and the user's cache.
    """
    paths = (folder / weights.file for folder in _folders(weights))
    return next((path for path in paths if os.path.isfile(path)), None)  # unlike Path.is_file it never raises


def _folders(weights: WeightFile) -> Iterator[Path]:
    yield from (Path(folder) for folder in os.environ.get("BASIS_WEIGHTS", "").split(os.pathsep) if folder)
    if weights.folder:
        yield weights.folder
    yield SHIPPED
    yield _user_cache()


def _user_cache() -> Path:
    return platformdirs.user_cache_path("basis") / "weights"


def entry(weights: WeightFile, path: Path | None = None) -> Entry | None:
    """What the manifest beside ``path``, the plugin's own or the shipped one says of the file, in that order."""
    folders = [path.parent if path else None, weights.folder, SHIPPED]
    found = (manifest(folder).get(weights.file) for folder in folders if folder)
    return next((each for each in found if each), None)


def manifest(folder: Path) -> dict[str, Entry]:
    """The entries of the folder's ``manifest.toml`` by file name; empty if it has none.

    Raises:
        WeightsError: the manifest cannot be read or lacks a field.
    """
    path = folder / MANIFEST
    try:
        entries = [Entry(**table) for table in tomllib.loads(path.read_text(encoding="utf-8")).get("file", [])]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"cannot use {path}: {error}", "each [[file]] has name, sha256, bytes, licence, card"
        ) from error
    return {each.name: each for each in entries}


def _stated_sha256(weights: WeightFile, path: Path | None = None) -> str:
    if weights.sha256:
        return weights.sha256.lower()
    stated = entry(weights, path)
    if stated is None:
        raise WeightsError(
            f"no SHA-256 is stated for {path or weights.file}", f"add it to a {MANIFEST} beside the file"
        )
    return stated.sha256.lower()


def _verify(path: Path, expected: str, weights: WeightFile) -> None:
    try:
        actual = remembered_sha256(path)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}", "check its permissions") from error
    if actual != expected:
        restore = "then `basis weights pull PRIOR`" if weights.url else "then reinstall the package that ships it"
        raise WeightsError(
            f"{path} is corrupted: its SHA-256 is {actual[:12]}..., not {expected[:12]}...", f"delete it, {restore}"
        )


def remembered_sha256(path: Path) -> str:
    """:func:`sha256`, computed once a process for a file that does not change."""
    status = path.stat()
    return _sha256_of(path, status.st_size, status.st_mtime_ns)


@cache
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    return sha256(path)


def sha256(path: Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def pull(weights: WeightFile) -> Path:
    """Download the file into the user's cache, unless a good one is there, and return its verified path.

    It comes under a temporary name and gets its own only when its SHA-256 is right.

    Raises:
        WeightsError: no address or no SHA-256 is stated, the download failed, or brought another file.
    """
    if not weights.url:
        raise WeightsError(f"{weights.file} has no download address", "it comes with the package: reinstall that")
    expected = _stated_sha256(weights)
    import pooch  # slow to import, and only needed here

    pooch.get_logger().setLevel("WARNING")
    try:
        found = pooch.retrieve(weights.url, f"sha256:{expected}", weights.file, _user_cache())
    except (OSError, ValueError) as error:  # no connection or a full disk; a wrong hash or an unknown kind of address
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"cannot download {weights.url}: {reason}", "check the connection, then try again"
        ) from error
    return Path(found)
