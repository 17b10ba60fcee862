"""conditioners."""
