"""The errors a user may meet. Each carries what was wrong, a hint at the way out, and the command's exit code."""

from __future__ import annotations


class BasisError(Exception):
    """Something the user can act on: printed as one line with a hint, never as a traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[type[BasisError], tuple[str, str]]:
        return type(self), (self.message, self.hint)  # from a worker's process to the user's


class InputError(BasisError):
    """A picture or data set that cannot be used as it is."""


class InputWarning(UserWarning):
    """A picture that was used, but not as it is: a channel, a frame or its transparency was dropped."""


class RunWarning(UserWarning):
    """A run that goes on, but not as planned: with less at once, or on a slower path. Its result is the same."""


class NotFiniteError(BasisError):
    """A sample, a loss or weights became NaN or infinite; nothing of them is written."""


class UsageError(BasisError):
    """Arguments that do not fit together, or an output that would be overwritten."""

    exit_code = 2


class UnknownPriorError(BasisError):
    """No plugin offers a prior, or sampler, of that name."""

    exit_code = 3


class WeightsError(BasisError):
    """Weights missing, corrupted, or made for another network."""

    exit_code = 4


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch has an exception for it on CUDA, and words elsewhere."""
    words = ["can't allocate memory", "not enough memory", "ALLOC_FAILED", "MPS backend out of memory"]
    words += ["failed to map segment", "Cannot allocate memory"]
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(word in str(error) for word in words)
