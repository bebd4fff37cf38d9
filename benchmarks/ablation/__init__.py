"""Methods beside each other at several budgets and seeds: ``python -m benchmarks.ablation FILE``."""
