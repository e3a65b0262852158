"""The projectors by name; a new one is a file of its name and a name here."""

# Each is ``medcap.models.<name>`` in a configuration.
PROJECTORS = ("identity", "linear", "mlp", "pooled_mlp", "ppc", "resampler")
