"""Projectors: tower output -> image tokens of the language model."""
