from torch import nn

from helpers.model_parts import ModelParts
from medcap.modules.frozen_linear import quantise_layer
from medcap.training.banner import describe_parts, untrained_notes
from medcap.training.trainable import set_trainable


def test_the_banner_counts_what_is_frozen_and_what_learns():
    model = ModelParts("medcap.models.mlp")
    set_trainable(model, ["projector"])
    lines = {line[2:22].strip(): line[22:].split() for line in describe_parts(model).splitlines()}
    assert lines["language model"] == ["frozen", "20", "parameters", "float32"]
    assert lines["vision tower"][0] == lines["vision, unused head"][0] == "frozen"
    count = sum(parameter.numel() for parameter in model.projector.parameters())
    assert lines["projector"] == ["trained", f"{count:,}", "parameters", "float32"]


def test_the_banner_shows_what_the_optimizer_does_otherwise_for_a_component():
    model = ModelParts("medcap.models.mlp")
    set_trainable(model, ["projector"])
    banner = describe_parts(model, {"vision": {"lr": 1.0}, "projector": {"lr": 2e-3, "weight_decay": 0.0}})
    (line,) = [line for line in banner.splitlines() if "lr" in line]
    assert line.startswith("  projector ") and line.endswith("parameters  float32, lr 0.002, weight_decay 0")


def test_the_banner_counts_quantised_weights_and_names_their_precision():
    model = ModelParts("medcap.models.mlp")
    model.decoder = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4))
    quantise_layer(model.decoder, "int8")
    assert describe_parts(model).splitlines()[0].split() == [
        *("language", "model", "trained", "32", "parameters", "float32,", "layers", "in", "int8")
    ]


def test_a_component_that_is_configured_and_does_not_learn_is_noted():
    model = ModelParts("medcap.models.mlp")
    set_trainable(model, ["projector"])
    for name in ("box_decoder", "mask_decoder", "region_encoder"):
        model.components[name] = nn.Linear(2, 2).requires_grad_(name == "box_decoder")
    model.components["words"] = nn.Identity()  # no weights: nothing could learn
    assert untrained_notes(model, ["region_encoder"]) == [
        "note: mask_decoder is configured but not in 'trainable': it stays as it was built, without an earlier run's"
        " weights",
        "note: region_encoder is configured but not in 'trainable': it stays as the earlier run left it",
    ]
