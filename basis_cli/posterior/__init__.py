"""What gives answers to what was observed."""

from .base import Posterior as Posterior
from .base import Result as Result
from .blind import Blind as Blind
from .cost import estimated_seconds as estimated_seconds
from .direct import Direct as Direct
from .frames import Frames as Frames
from .guided import Guided as Guided
from .guided import conditioned as conditioned
from .guided import refining as refining
from .resume import SavedState as SavedState
from .runner import Drawn as Drawn
from .runner import answers as answers
from .runner import drawn as drawn
from .settings import Sampling as Sampling
