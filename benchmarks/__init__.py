"""Measurements and recorded results; not part of the library."""
