"""How unknown pictures make the observed one: ``y = A(x)``."""

from .base import Constraint as Constraint
from .base import Derivative as Derivative
from .base import Forward as Forward
from .base import LinearOperator as LinearOperator
from .base import Operator as Operator
from .base import Unobserved as Unobserved
from .base import consistent as consistent
from .base import linearized as linearized
from .image import Downsample as Downsample
from .image import Gray as Gray
from .image import Mask as Mask
from .jpeg import Jpeg as Jpeg
from .jpeg import standard_tables as standard_tables
from .mixture import Mixture as Mixture
