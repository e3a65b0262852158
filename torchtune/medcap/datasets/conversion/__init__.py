"""What all converters share: reading sources, writing rows, counting what is left out."""
