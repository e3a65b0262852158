"""Decoders that are not torchtune's: any causal language model of transformers."""
