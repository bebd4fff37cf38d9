"""How fast mnemo is, as ratios to its peers in one run: ``python -m benchmarks.speed``."""
