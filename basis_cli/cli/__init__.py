"""The ``basis`` command. Light, so that a plugin can import the parts that its own commands are made of."""


def main() -> None:
    """The console script."""
    from .app import app

    app()
