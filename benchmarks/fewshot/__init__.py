"""Few-shot methods beside each other on the same tasks; see :mod:`benchmarks.fewshot.__main__`."""
