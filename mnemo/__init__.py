"""Class-incremental learning with exemplars that are optimised by bilevel gradients."""
