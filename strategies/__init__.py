"""Recipes: one file, one paper. A recipe composes parts of mnemo, and its signature is its configuration."""
