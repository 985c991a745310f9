"""The training loop shared by every trainable prior."""

from .fit import STATE as STATE
from .fit import Loss as Loss
from .fit import check_accelerate as check_accelerate
from .fit import fit as fit
from .fit import to_be_continued as to_be_continued
from .optimizers import Muon as Muon
from .optimizers import learning_rate_factor as learning_rate_factor
from .pictures import Rounds as Rounds
from .pictures import taken as taken
from .settings import Settings as Settings
