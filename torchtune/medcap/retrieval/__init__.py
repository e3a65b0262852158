"""Example images for segmentation by example: an index of a tower's features, and the nearest of each query."""
