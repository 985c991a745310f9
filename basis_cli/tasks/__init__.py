"""The user's verbs."""

from .core import UNKNOWN as UNKNOWN
from .core import Picture as Picture
from .core import Result as Result
from .core import coded as coded
from .core import colorize as colorize
from .core import corrected as corrected
from .core import decompress as decompress
from .core import graying as graying
from .core import inpaint as inpaint
from .core import kinds as kinds
from .core import ranked_samples as ranked_samples
from .core import restore as restore
from .core import restoring as restoring
from .core import sample as sample
from .core import separate as separate
from .core import separation as separation
from .core import unknown as unknown
from .core import upscale as upscale
