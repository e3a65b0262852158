"""Stands in for torchtune in the trials of a sweep: its folder comes first on their PYTHONPATH."""
