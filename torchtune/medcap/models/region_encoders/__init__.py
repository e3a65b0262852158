"""Region encoders: a region of a question -> tokens."""
