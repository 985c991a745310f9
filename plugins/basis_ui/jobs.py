"""Uploads and jobs as folders on disk, so that a reload or a new start of the server finds them again.

``uploads/ID/NAME`` with a preview; ``jobs/ID`` with the input, its mask, ``job.json`` and the answers in ``out/``.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from basis_cli.api import InputError, UsageError, atomically

from . import form as forms

LARGEST_FILE = 32 * 2**20
LARGEST_PICTURE = 50_000_000
"""Pixels."""
LARGEST_FOLDER = 2 * 2**30
"""Bytes of all uploads and jobs."""
MOST_WAITING = 20
MOST_JOBS = 500
PREVIEW = 1600
"""Pixels a side of what the page shows of an upload."""
ID = re.compile(r"[0-9a-f]{16}")
FORMATS = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "PPM": ".ppm"}
FORMATS |= {"AVIF": ".avif"}
ACTIVE = ("queued", "running")


class Jobs:
    """Everything that the page keeps, in one folder."""

    def __init__(self, folder: Path):
        """Take ``folder``; jobs that were at work when a server ended begin again.

        Raises:
            UsageError: another server has it, or it cannot be written.
        """
        self.folder = folder
        try:
            for part in ("uploads", "jobs"):
                (folder / part).mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
            self._lock = _locked(folder / "lock")
            self.token = _token(folder / "token")
        except OSError as error:
            raise UsageError(f"{folder} cannot be used: {error.strerror or error}", "--folder") from error
        self.process: asyncio.subprocess.Process | None = None
        self.at_work = ""
        self.wake = asyncio.Event()
        shutil.rmtree(folder / "uploads", ignore_errors=True)  # jobs have copies of what they need
        (folder / "uploads").mkdir(mode=0o700)
        for job in self.all():
            if job["state"] == "running":
                self._save(job | {"state": "queued", "note": "begun again: the server was restarted"})

    def close(self) -> None:
        """Let another server have the folder."""
        self._lock.close()

    def size(self) -> int:
        """Bytes of everything."""
        total = 0
        for file in self.folder.rglob("*"):
            with suppress(OSError):  # deleted meanwhile
                total += file.stat().st_size
        return total

    # uploads

    def upload(self, data: bytes, name: str) -> dict[str, Any]:
        """Keep a picture, and say what it is.

        Raises:
            InputError: it is none, or too large, or the folder is full.
        """
        if self.size() + len(data) > LARGEST_FOLDER:
            raise InputError("there is no room left for pictures", "delete jobs that are done")
        import io

        try:
            with Image.open(io.BytesIO(data)) as image:
                ending = FORMATS.get(image.format or "")
                if ending is None:
                    raise InputError(f"{image.format} pictures are not read", "PNG, JPEG, TIFF or WebP")
                if image.width * image.height > LARGEST_PICTURE:
                    raise InputError(f"{image.width} x {image.height} pixels are too many", "shrink it first")
                upright = ImageOps.exif_transpose(image)
                width, height = upright.size
                preview = upright.convert("RGBA" if upright.mode in ("RGBA", "LA", "PA") else "RGB")
        except InputError:
            raise
        except Exception as error:  # a damaged file may fail anywhere
            raise InputError("this is not a picture that can be read", "PNG, JPEG, TIFF or WebP") from error
        preview.thumbnail((PREVIEW, PREVIEW))
        upload = secrets.token_hex(8)
        place = self.folder / "uploads" / upload
        place.mkdir(mode=0o700)
        preview.save(place / "preview.png")
        stored = place / f"{_stem(name)}{ending}"
        stored.write_bytes(data)
        return {"id": upload, "name": stored.name, "width": width, "height": height}

    def uploaded(self, upload: Any) -> Path:
        """The file of an upload.

        Raises:
            InputError: there is none.
        """
        place = self.folder / "uploads" / str(upload)
        found = [file for file in place.glob("*") if file.name != "preview.png"] if _is_id(upload) else []
        if not found:
            raise InputError("this picture is not here any more", "drop it again")
        return found[0]

    # jobs

    def all(self) -> list[dict[str, Any]]:
        """Every job, the newest first."""
        found = [job for place in (self.folder / "jobs").iterdir() if (job := self._read(place))]
        return sorted(found, key=lambda job: job["created"], reverse=True)

    def get(self, job: str) -> dict[str, Any]:
        """One job, with how far it is or what came of it.

        Raises:
            InputError: there is none.
        """
        found = self._read(self.folder / "jobs" / job) if _is_id(job) else None
        if not found:
            raise InputError("there is no such job", "it may have been deleted")
        place = self.folder / "jobs" / job
        if found["state"] == "running":
            found["progress"] = _json(place / "progress.json") or {}
        if found["state"] == "done" and (record := _json(place / "out" / f"{Path(found['input']).stem}.json")):
            found["record"] = record
            found["command"] = _command(record["task"], record["input"], record["options"])
        found["files"] = sorted(file.name for file in self.files(job))
        return found

    def files(self, job: str) -> list[Path]:
        """What may be looked at or taken away of a job."""
        place = self.folder / "jobs" / job
        own = [*place.glob("out/*"), *(file for file in place.glob("*") if file.suffix not in (".json", ".txt"))]
        return [file for file in own if file.is_file() and not file.name.endswith(".partial")]

    def add(self, form: Mapping[str, Any]) -> dict[str, Any]:
        """Queue what a form asks for.

        Raises:
            InputError: it asks for what is not offered, or too many are waiting.
        """
        jobs = self.all()
        if sum(job["state"] == "queued" for job in jobs) >= MOST_WAITING or len(jobs) >= MOST_JOBS:
            raise InputError("too many jobs are waiting", "cancel or delete some")
        given = self.uploaded(form.get("upload"))
        mask = self.uploaded(form["mask"]) if form.get("mask") else None
        mask_name = f"{given.stem}.mask{mask.suffix}" if mask else None
        words = forms.words(form, mask_name)
        job = secrets.token_hex(8)
        place = self.folder / "jobs" / job
        place.mkdir(mode=0o700)
        shutil.copy(given, place / given.name)
        shutil.copy(given.with_name("preview.png"), place / "preview.png")
        if mask and mask_name:
            shutil.copy(mask, place / mask_name)
        task = str(form["task"])
        about = {"id": job, "created": time.time(), "state": "queued", "task": task, "input": given.name}
        self._save(about | {"words": words, "command": _command(task, given.name, words)})
        self.wake.set()
        return self.get(job)

    async def cancel(self, job: str) -> dict[str, Any]:
        """End a job that waits or is at work."""
        found = self.get(job)
        if found["state"] in ACTIVE:
            self._save(self._stored(job) | {"state": "cancelled"})
            if self.at_work == job and self.process and self.process.returncode is None:
                self.process.terminate()
                await self.process.wait()
        return self.get(job)

    async def remove(self, job: str) -> None:
        """Delete a job with all its files."""
        await self.cancel(job)
        shutil.rmtree(self.folder / "jobs" / job)

    async def work(self) -> None:
        """Do one job after the other, for ever."""
        try:
            while True:
                self.wake.clear()
                waiting = [job for job in reversed(self.all()) if job["state"] == "queued"]
                if waiting:
                    await self._do(waiting[0])
                else:
                    await self.wake.wait()
        finally:
            if self.process and self.process.returncode is None:
                self.process.kill()

    async def _do(self, job: dict[str, Any]) -> None:
        place = self.folder / "jobs" / job["id"]
        for name in ("progress.json", "forming.png"):
            (place / name).unlink(missing_ok=True)
        command = [sys.executable, "-m", "basis_cli", "ui-worker", "--", job["task"], *job["words"]]
        command += ["--report", "--out", "out", "--overwrite", "--", job["input"]]
        self._save(job | {"state": "running", "started": time.time()})
        self.at_work = job["id"]
        with open(place / "log.txt", "wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, cwd=place, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=_environment()
            )
            if self._stored(job["id"]).get("state") != "running":  # cancelled while it began
                self.process.terminate()
            code = await self.process.wait()
        self.at_work = ""
        now = self._read(place)
        if now and now["state"] == "running":
            said = (place / "log.txt").read_text("utf-8", errors="replace")
            self._save(now | {"ended": time.time()} | _ended(code, said))

    # files

    def _stored(self, job: str) -> dict[str, Any]:
        return self._read(self.folder / "jobs" / job) or {}

    def _read(self, place: Path) -> dict[str, Any] | None:
        found = _json(place / "job.json")
        return found if found and found.get("id") == place.name else None

    def _save(self, job: dict[str, Any]) -> None:
        place = self.folder / "jobs" / job["id"]
        if place.is_dir():  # it may have been deleted
            with atomically(place / "job.json") as partial:
                partial.write_text(json.dumps(job))


def _ended(code: int, said: str) -> dict[str, Any]:
    """What to say of a process that ended: its own words, if it failed."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    warnings = [line.partition("warning:")[2].strip() for line in lines if line.startswith("warning:")]
    if code == 0:
        return {"state": "done", "warnings": warnings}
    errors = [line.partition("error:")[2].strip() for line in lines if line.startswith("error:")]
    killed = "it was ended from outside: too little memory?" if code < 0 else f"it ended with code {code}"
    return {"state": "failed", "warnings": warnings, "error": errors[-1] if errors else lines[-1] if lines else killed}


def _command(task: str, name: str, options: list[str]) -> str:
    return shlex.join(["basis", task, name, *options])


def _environment() -> dict[str, str]:
    return os.environ | {"COLUMNS": "4000", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}


def _json(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and ID.fullmatch(value) is not None


def _stem(name: str) -> str:
    """A file's name without folder and ending, and without what a shell or a file system takes ill."""
    stem = re.sub(r"[^\w.-]+", "-", Path(name.replace("\\", "/")).stem).strip("-.")[:60]
    return "picture" if stem in ("", "preview", "forming") else stem


def _locked(path: Path) -> Any:
    """An open file that this process alone holds."""
    file = open(path, "w")  # noqa: SIM115 - held as long as the server lives
    with suppress(ImportError):  # Windows: servers are not kept apart
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise UsageError(f"another `basis ui` uses {path.parent}", "its page, or another --folder") from None
    return file


def _token(path: Path) -> str:
    """The secret of this folder's address, the same after a restart so that an open page goes on."""
    with suppress(OSError):
        known = path.read_text().strip()
        if re.fullmatch(r"[\w-]{43}", known):
            return known
    token = secrets.token_urlsafe(32)
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token)
    return token
