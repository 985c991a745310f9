"""The ``basis`` command. Light, so that a plugin can import the parts that its own commands are made of."""

import gc
import io
import os
import signal
import sys
import warnings
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

INTERRUPTED = 130


def main() -> None:
    """The console script."""
    by_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if by_default:
        signal.signal(signal.SIGINT, _interrupted)  # nothing is begun, and imports may not take an exception well
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what modules warn of while they are imported
    gc.set_threshold(20_000, 50, 100)  # imports make objects by the hundred thousand, and hardly any garbage
    app = _app(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a redirected stream may not know every character of a file's name
            stream.reconfigure(errors="backslashreplace")
    if by_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            app()
        finally:
            gc.freeze()  # so that Python's way out does not look at each object of torch
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:  # of stdout: those of files are reported where they are met
        if sys.stderr is not None:
            print(f"error: cannot write to standard output: {error.strerror or error}", file=sys.stderr)
        os._exit(1)  # Python's own way out would try to write again


def _app(words: list[str]) -> "typer.Typer":
    """``basis`` with all its commands, or only with the one that ``words`` ask for, if it is a built-in task."""
    from ..tasks import built_in

    if words and words[0] in built_in():
        from .root import with_task

        return with_task(built_in()[words[0]])
    from .app import app

    return app


def _interrupted(signum: int, frame: FrameType | None) -> None:
    os.write(2, b"error: interrupted\n")
    os._exit(INTERRUPTED)
