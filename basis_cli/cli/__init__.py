"""The ``basis`` command. Light, so that a plugin can import the parts that its own commands are made of."""

import io
import sys


def main() -> None:
    """The console script."""
    from .app import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a redirected stream may not know every character of a file's name
            stream.reconfigure(errors="backslashreplace")
    app()
