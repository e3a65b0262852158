"""The parts of a model, small and without weights of files, where a test needs their names and flags alone."""

from torch import nn

from medcap.checkpoints.vision import plan_vision

TINY = {"name": "tiny", "image_size": 32, "width": 32, "depth": 1, "heads": 2, "pooled_dim": 12}


class ModelParts(nn.Module):
    """A tower, a projector of the named kind for a language model of width 16, and a layer in place of the decoder."""

    def __init__(self, projector: str) -> None:
        super().__init__()
        self.tower, self.projector = plan_vision(TINY, None, {"_component_": projector}, 16).build()
        self.decoder = nn.Linear(4, 4)
        self.components = {"vision": self.tower, "projector": self.projector}
