"""How good a prior and a sampler are, measured as the papers do."""
