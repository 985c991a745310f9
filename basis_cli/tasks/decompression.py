"""Undo JPEG compression."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, UsageError
from .base import Damage, Shape, Task
from .library import answer

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.images import JpegCoding, Stored
    from ..operators import Jpeg, Operator
    from ..posterior import Result
    from .base import Picture


@dataclass(frozen=True)
class Decompression(Damage):
    """Compress test pictures as JPEG, undo it, and compare with the decoded files."""

    quality: Annotated[int, typer.Option(min=1, max=100, help="libjpeg's quality.")] = 10

    def task(self) -> Task:
        return Compressed(quality=self.quality)


@dataclass(frozen=True)
class Decompress(Task):
    """Undo JPEG compression: a picture without its blocks that would give this very file.

    How much was lost is read from the file's own tables. The answer to a gray file is gray. Writes STEM.x1.png and
    STEM.json.
    """

    name, noun, damage = "decompress", "decompression", Decompression
    defaults = {  # noqa: RUF012
        "sampler": "project",
        "levels": 10,
        "sigma_max": 0.2,
        "sigma_min": 0.01,
        "overrelaxation": 0.9,
    }
    """The decoded file tells all that noise of 0.2 would hide."""

    def read(self, source: Path | str, shape: Shape, larger: bool = False) -> tuple[Task, Stored]:
        from ..data import images

        file = source if os.path.isfile(source) else images.contents(source)  # a pipe can be read once only
        coding = images.jpeg_coding(file)
        c, h, w = shape
        height, width = coding.size
        size = (height, width) if larger and height >= h and width >= w else (h, w)
        coded(coding, (c, *size), str(source))
        return Coded(coding), images.load(file, shape, None, larger, as_coded=True)

    def operator(self, shape: Shape) -> Operator:
        raise UsageError("arrays do not say how they were compressed", "give jpeg=Jpeg(...)")

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        """The decoded file."""
        return y


@dataclass(frozen=True)
class Coded(Decompress):
    """Files that were coded alike."""

    coding: JpegCoding

    def operator(self, shape: Shape) -> Operator:
        return coded(self.coding, shape)


@dataclass(frozen=True)
class Compressed(Decompress):
    """Pictures stored at a quality, 4:2:0."""

    quality: int

    def operator(self, shape: Shape) -> Jpeg:
        from ..operators import Jpeg, standard_tables

        return Jpeg(standard_tables(self.quality)[: 1 if shape[0] == 1 else 2], shape[1:])

    def about(self) -> dict[str, Any]:
        return {"quality": self.quality}


@dataclass(frozen=True, eq=False)
class Given(Decompress):
    """What an operator that is known made."""

    __eq__, __hash__ = object.__eq__, object.__hash__  # what it holds cannot be compared

    jpeg: Jpeg

    def operator(self, shape: Shape) -> Operator:
        return self.jpeg


def decompress(pictures: Picture | Sequence[Picture], jpeg: Jpeg | None = None, **options: Any) -> Result:
    """Undo JPEG compression: find pictures that the prior finds likely and that would give these very files.

    Without ``jpeg`` the pictures are JPEG files, and how they were made is read from their own tables; all of them
    must share it. Decoded arrays need ``jpeg``. ``options`` are those of :func:`basis_cli.tasks.library.answer`.
    """
    if jpeg is not None:
        return answer(Given(jpeg), pictures, **options)
    from ..data import images

    files = [pictures] if isinstance(pictures, (str, os.PathLike)) else list(pictures)
    if not all(isinstance(file, (str, os.PathLike)) for file in files):
        raise UsageError("arrays do not say how they were compressed", "give jpeg=Jpeg(...)")
    codings = {images.jpeg_coding(file) for file in files}  # type: ignore[arg-type]
    if len(codings) != 1:
        raise UsageError("these files were compressed in different ways", "decompress them one by one")
    as_coded = [images.load(file, as_coded=True).pixels for file in files]  # type: ignore[arg-type]
    return answer(Coded(codings.pop()), as_coded, **options)


def coded(coding: JpegCoding, shape: Shape, name: str = "the JPEG file") -> Jpeg:
    """The operator of a file with this ``coding``, for a prior of this ``shape``.

    Raises:
        InputError: another size, or colour where the prior is gray.
    """
    from ..operators import Jpeg

    h, w = coding.size
    if (h, w) != tuple(shape[1:]):
        tiles = "--tile; " if h >= shape[1] and w >= shape[2] else ""
        hint = f"{tiles}another size cannot be fitted: its 8 x 8 blocks would be lost"
        raise InputError(f"{name} has {w} x {h} pixels, but the prior models {shape[2]} x {shape[1]}", hint)
    if len(coding.tables) > 1 and shape[0] == 1:
        raise InputError(
            f"{name} is in colour, but the prior models gray pictures", "choose a prior of colour pictures"
        )
    return Jpeg(*coding)


TASKS = (Decompress,)
