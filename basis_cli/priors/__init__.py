"""What pictures look like: priors by name, and of pictures larger than the prior's."""

from .denoiser import DenoiserPrior as DenoiserPrior
from .loading import load_prior as load_prior
from .tiles import PyramidPrior as PyramidPrior
from .tiles import TiledPrior as TiledPrior
