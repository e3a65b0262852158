"""Projectors: tower output -> image tokens of the language model; a new one is a file and a name here."""

# Each is ``medcap.models.<name>`` in a configuration.
PROJECTORS = ("identity", "linear", "mlp", "pooled_mlp", "ppc", "resampler")
