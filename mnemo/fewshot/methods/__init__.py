"""Recipes of few-shot methods, one paper a file. Their signatures are their settings, their defaults the papers'."""
