"""Vision towers: one file a kind, found by name in ``registry``."""
