"""How unknown pictures make the observed one: ``y = A(x)``."""

from .base import Constraint as Constraint
from .base import Derivative as Derivative
from .base import Forward as Forward
from .base import LinearOperator as LinearOperator
from .base import Operator as Operator
from .base import Unobserved as Unobserved
from .base import Updating as Updating
from .base import consistent as consistent
from .base import linearized as linearized
from .base import misfit as misfit
from .image import Downsample as Downsample
from .image import Gray as Gray
from .image import Mask as Mask
from .jpeg import Jpeg as Jpeg
from .jpeg import standard_tables as standard_tables
from .mixture import Maximum as Maximum
from .mixture import Mixture as Mixture
from .mixture import Mixtures as Mixtures
from .mixture import Screen as Screen
from .mixture import Unknown as Unknown
from .record import Composed as Composed
from .record import Digitized as Digitized
from .record import Quantized as Quantized
from .record import Saturated as Saturated
from .record import estimated as estimated
from .record import fitted as fitted
