"""Models of other systems as runs of ours."""
