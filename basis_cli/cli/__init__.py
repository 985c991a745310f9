"""The ``basis`` command. Light, so that a plugin can import the parts that its own commands are made of."""

import atexit
import gc
import io
import os
import signal
import sys
import warnings
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

INTERRUPTED = 130


def program() -> None:
    """The console script: :func:`main` in a process of its own."""
    code: int | None = None

    def leave() -> None:
        """Python's own way out takes apart what torch made, object by object: a tenth of a second."""
        if code is not None:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            os._exit(code)

    atexit.register(leave)  # the first to be registered is the last to be called: all others have closed what is theirs
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else None
        raise


def main() -> None:
    """What was typed, done; it ends with ``SystemExit``."""
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
