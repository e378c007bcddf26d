"""Training a network in torch: unfrozen, or from nothing. `recipe` needs no torch."""
