"""The commands: the page, and the process at work on one job."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from basis_cli.api import BasisError, UsageError, commands

LOOK_EVERY = 0.4
"""Seconds between pictures of a job at work."""
LARGEST_LOOK = 256
"""Pixels a side of these."""


def ui(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: any that is free.")] = 8317,
    host: Annotated[
        str,
        typer.Option(help="Where to listen. Anything but this machine itself lets others on the network ask for it."),
    ] = "127.0.0.1",
    folder: Annotated[
        Path | None, typer.Option(help="Where pictures and answers are kept. (default: in the user's data folder)")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Use it in a browser: drop a picture, choose a task, paint a mask, watch the answer form.

    No picture leaves the machine. The address that is printed holds a secret: whoever has it may use the page. One job
    is done at a time; jobs outlive the page and the server.
    """
    try:
        import uvicorn

        from .server import application
    except ImportError:
        raise UsageError("the page needs starlette and uvicorn", "pip install 'basis-cli[ui]'") from None
    from .jobs import Jobs

    jobs = Jobs(folder or _usual_folder())
    listening = _listening(host, port)
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}/?token={jobs.token}"
    app = application(jobs, {f"{name}:{port}" for name in {shown, "127.0.0.1", "localhost", "[::1]"}})
    print(address, flush=True)
    commands.stderr.print("Ctrl-C ends it; what is at work goes on at the next start.")
    if open_browser:
        threading.Thread(target=_open, args=(address,), daemon=True).start()
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, server_header=False)
    )
    server.run(sockets=[listening])
    jobs.close()


def _open(address: str) -> None:
    import webbrowser

    time.sleep(0.5)  # the server is about to listen
    webbrowser.open(address)


def _usual_folder() -> Path:
    import platformdirs

    return platformdirs.user_data_path("basis") / "ui"


def _listening(host: str, port: int) -> socket.socket:
    """A socket bound before anything else is done.

    Raises:
        UsageError: the port is taken, or there is no such address.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"cannot listen on {host}, port {port}: {reason}", "--port 0 takes one that is free"
        ) from error
    return bound


def ui_worker(
    context: typer.Context, words: Annotated[list[str], typer.Argument(help="A command and its options.")]
) -> None:
    """Do one job of the page in the current folder, and keep there how far it is."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    commands.followers.append(Following(Path.cwd()))
    assert context.parent is not None, "it is a command of the app"
    code = context.parent.command.main(words, prog_name="basis", standalone_mode=False)
    if code:
        raise typer.Exit(code)


def _end_with(parent: int) -> None:
    """End this process when the server is gone, which will begin the job again."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(BasisError.exit_code)


class Following:
    """Writes how far a job is into ``progress.json``, and the picture as it is into ``forming.png``."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.seconds: float | None = None
        self.began = self.looked = time.monotonic()

    def estimate(self, seconds: float) -> None:
        self.seconds = seconds
        self._write({"fraction": 0.0})

    def step(self, progress: Any) -> None:
        now, last = time.monotonic(), progress.step + 1 == progress.total
        if now - self.looked < LOOK_EVERY and not last:
            return
        self.looked = now
        fraction = (progress.batch + (progress.step + 1) / progress.total) / progress.batches
        self._look(progress.x)
        self._write({"fraction": fraction, "sigma": progress.sigma, "left": (now - self.began) * (1 / fraction - 1)})

    def _look(self, x: Any) -> None:
        """The first picture's components ``(k, n, c, h, w)`` side by side."""
        from PIL import Image

        from basis_cli.api import atomically

        parts = x[:, 0].detach().float().clamp(0, 1).mul(255).round().byte().cpu().permute(0, 2, 3, 1).numpy()
        side = [Image.fromarray(part[..., 0] if part.shape[-1] == 1 else part).convert("RGB") for part in parts]
        sheet = Image.new("RGB", (sum(p.width for p in side) + 2 * (len(side) - 1), side[0].height), "white")
        for i, part in enumerate(side):
            sheet.paste(part, (i * (part.width + 2), 0))
        sheet.thumbnail((len(side) * LARGEST_LOOK, LARGEST_LOOK))
        with atomically(self.folder / "forming.png") as partial:
            sheet.save(partial, "PNG")

    def _write(self, about: dict[str, Any]) -> None:
        import json

        from basis_cli.api import atomically

        with atomically(self.folder / "progress.json") as partial:
            partial.write_text(json.dumps({"estimate": self.seconds, **about}))
