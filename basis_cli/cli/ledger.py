"""The records of a command's answers, in one file: memory does not grow with their number."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError

NAME = "results.jsonl"


class Ledger:
    """Records, a line of JSON each, in a file that is gone at the end, or in ``path``, which keeps what it has.

    They are found by the name that a record of its own would have, ``STEM.json``.

    Raises:
        InputError: ``path`` holds something else.
        BasisError: it cannot be read or written.
    """

    def __init__(self, path: Path | None = None):
        from ..data.files import unwritable
        from ..data.images import out_folder

        self._folder = path.parent if path else Path()
        self._places: dict[str, int] = {}
        self._before = 0
        try:
            if path:
                out_folder(path.parent)
            self._file: BinaryIO = open(path, "a+b") if path else tempfile.TemporaryFile()  # noqa: SIM115 - kept open
            self._read(path)
        except OSError as error:
            raise unwritable(path or Path(tempfile.gettempdir()), error) from error

    def _read(self, path: Path | None) -> None:
        """Where each input's last record is. A line without an end was cut off by the end of its run."""
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                self._file.truncate(whole)
                break
            try:
                self._places[json.loads(line)["stem"]] = whole
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path} is not of records, a line each", "another --out") from error
            whole += len(line)
        self._before = whole

    def append(self, record: dict[str, Any]) -> None:
        """Add a record; it counts in place of an earlier one of its stem."""
        self._places[record["stem"]] = self._file.seek(0, 2)
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def _stem(self, file: object) -> str:
        return str(Path(str(file)).relative_to(self._folder))[: -len(".json")]

    def __contains__(self, file: object) -> bool:
        return self._stem(file) in self._places

    def __getitem__(self, file: Path) -> dict[str, Any]:
        return self._at(self._places[self._stem(file)])

    def _at(self, place: int) -> dict[str, Any]:
        self._file.seek(place)
        return json.loads(self._file.readline())

    def of(self, stems: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Those of this run, in the order of ``stems``."""
        return (self._at(self._places[stem]) for stem in stems if self._places.get(stem, -1) >= self._before)
