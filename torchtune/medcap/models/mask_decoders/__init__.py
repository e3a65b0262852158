"""Mask decoders: a hidden state and an image -> a mask."""
