"""How good and how fast a model is, and whether two models answer alike."""
