"""Recipes that `tune run medcap/recipes/NAME` starts."""
