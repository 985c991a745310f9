"""Pictures that are no files of their own: members of tar files, and what was sent from another machine."""

from __future__ import annotations

import os
import tarfile
from functools import lru_cache
from pathlib import Path, PurePosixPath

from ..errors import InputError

RECEIVED: dict[str, bytes] = {}
"""What is in files of another machine, by their names there."""


def members(tar: str) -> dict[str, tuple[int, int]]:
    """Where each file of a tar begins in it, and its bytes: members are read without what is before them.

    Raises:
        InputError: it is damaged or compressed.
    """
    try:
        about = os.stat(tar)
    except OSError as error:
        raise InputError(f"cannot read {tar}: {error.strerror}") from error
    return _members(tar, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=16)
def _members(tar: str, *version: int) -> dict[str, tuple[int, int]]:
    try:
        with tarfile.open(tar, "r:") as archive:
            found = {}
            for member in archive:
                if member.isfile():
                    found[str(PurePosixPath(member.name))] = member.offset_data, member.size
                archive.members.clear()  # type: ignore[attr-defined]  # else it keeps all of them
            return found
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"cannot read {tar}: {error}", "a tar that is not compressed") from error


def is_tar(name: str) -> bool:
    return name.lower().endswith(".tar") and os.path.isfile(name)


def content(name: str) -> bytes | None:
    """What is in ``archive.tar/member``, or was received under this name; ``None`` of anything else.

    Raises:
        InputError: the tar has no such member.
    """
    if name in RECEIVED:
        return RECEIVED[name]
    if ".tar/" not in name.lower():
        return None
    for tar in Path(name).parents:
        if is_tar(str(tar)):
            member = str(PurePosixPath(name[len(str(tar)) + 1 :]))
            if member not in (inside := members(str(tar))):
                raise InputError(f"{tar} has no {member}", "tar -tf lists what it has")
            begin, size = inside[member]
            with open(tar, "rb") as file:
                file.seek(begin)
                return file.read(size)
    return None
