"""Training into a run folder, and going on with it."""
