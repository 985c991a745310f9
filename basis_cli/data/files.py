"""Files written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import BasisError


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes ``path`` only when the block succeeds.

    Raises:
        BasisError: the block or the renaming met an ``OSError``: disk full, no permission, no such folder.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        hint = "free some space or write to another folder"
        raise BasisError(f"cannot write {path}: {error.strerror or error}", hint) from error
    finally:
        with suppress(OSError):
            partial.unlink()
