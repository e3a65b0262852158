"""Whole or divided: what is chosen and said, and a divided decoder that computes what the whole one does."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.distributed.tensor import DTensor

from helpers.llm_checkpoints import random_decoder, tiny_llm, write_hugging_face_llm
from helpers.plain_component import PlainComponent
from helpers.processes import run_in_processes
from helpers.workspace import Workspace
from medcap.checkpoints.build_model import plan_model
from medcap.checkpoints.frozen_llm import plan_llm
from medcap.checkpoints.llm_fingerprint import llm_fingerprint
from medcap.configs import packaged_configs
from medcap.configuration import check
from medcap.errors import UserError
from medcap.models.preprocess import Preprocess
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.modules.label_loss import label_loss
from medcap.training.distributed.context import DistributedContext
from medcap.training.distributed.memory import MemoryEstimate
from medcap.training.distributed.parallelism import LayerSharder, choose, plan_parallelism
from medcap.training.keys import DistributedConfiguration
from medcap.training.trainable import set_trainable

# 16 GB of layers and 4 GB of everything else; divided by 8 it takes 2 + 2 * 0.5 + 4.
ESTIMATE = MemoryEstimate(
    16_000_000_000, 500_000_000, 1_000_000_000, 1_000_000_000, 500_000_000, 1_000_000_000, 500_000_000
)
GB = 10**9
CPU = torch.device("cpu")
NODE = DistributedContext(0, 16, 0, 8, torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("wanted", "available", "mode", "line"),
    [
        (
            "auto",
            80,
            "replicate",
            "parallelism=replicate: the whole language model on every GPU: about 20.0 GB of the 80.0 GB free for it",
        ),
        (
            "auto",
            21,
            "shard",
            "parallelism=shard: the language model's layers divided over the 8 processes of a node (whole it would take"
            " 20.0 GB): about 7.0 GB of the 21.0 GB free for it",
        ),
        (
            "shard",
            80,
            "shard",
            "parallelism=shard: the language model's layers divided over the 8 processes of a node (as asked): about"
            " 7.0 GB of the 80.0 GB free for it",
        ),
        (
            "replicate",
            10,
            "replicate",
            "parallelism=replicate: the whole language model on every GPU: about 20.0 GB of the 10.0 GB free for it;"
            " that may not fit: try parallelism=shard, a smaller batch_size or dataset.max_seq_len,"
            " activation_memory_budget=0.5",
        ),
        (
            "auto",
            6,
            "shard",
            "parallelism=shard: the language model's layers divided over the 8 processes of a node (whole it would take"
            " 20.0 GB): about 7.0 GB of the 6.0 GB free for it; that may not fit: try a smaller batch_size or"
            " dataset.max_seq_len, activation_memory_budget=0.5, cpu_offload=true",
        ),
    ],
)
def test_choice_is_by_memory_and_says_why(wanted: str, available: int, mode: str, line: str) -> None:
    assert choose(wanted, NODE, ESTIMATE, available * GB) == (mode, line)


@pytest.mark.parametrize("wanted", ["auto", "replicate", "shard"])
def test_one_process_a_node_has_nobody_to_share_with(wanted: str) -> None:
    mode, line = choose(wanted, DistributedContext(0, 2, 0, 1, CPU), ESTIMATE, 80 * GB)
    assert mode == "replicate"
    assert "one process on each node: no other to share the language model with" in line


def test_offloading_shards_and_is_refused_where_it_cannot_work() -> None:
    mode, line = choose("auto", NODE, ESTIMATE, 80 * GB, cpu_offload=True)
    assert mode == "shard"
    assert ": about 5.0 GB of the 80.0 GB" in line
    for wanted, world, message in (
        ("auto", DistributedContext(0, 2, 0, 2, CPU), r"cpu_offload=true: the weights are on the CPU already"),
        ("replicate", NODE, r"cpu_offload=true only works on a sharded language model"),
        ("shard", DistributedContext(0, 2, 0, 1, torch.device("cuda", 0)), r"at least two processes on each node"),
    ):
        with pytest.raises(UserError, match=message):
            choose(wanted, world, ESTIMATE, 80 * GB, cpu_offload=True)
    with pytest.raises(UserError, match=r"cpu_offload=true: the weights are on the CPU already"):
        LayerSharder(DistributedContext(0, 2, 0, 2, CPU), 2, cpu_offload=True)


def test_low_precision_layers_are_never_divided() -> None:
    mode, line = choose("auto", NODE, ESTIMATE, 80 * GB, llm_weights="int8")
    assert mode == "replicate"
    assert line == (
        "parallelism=replicate: the whole language model on every GPU, its layers in int8 are not divided: about"
        " 20.0 GB of the 80.0 GB free for it"
    )
    mode, line = choose("auto", NODE, ESTIMATE, 10 * GB, llm_weights="nf4")
    assert mode == "replicate"
    assert "; that may not fit: try llm_weights=bf16 with parallelism=shard, a smaller batch_size" in line
    for wanted, cpu_offload, asked in (("shard", False, "parallelism=shard"), ("auto", True, "cpu_offload=true")):
        with pytest.raises(UserError) as error:
            choose(wanted, NODE, ESTIMATE, 80 * GB, cpu_offload, "fp8")
        assert str(error.value) == (
            f"{asked} does not go with llm_weights=fp8, whose layers are not divided: use parallelism=replicate"
            " cpu_offload=false, or llm_weights=bf16"
        )


class Tower(PlainComponent):
    name = "vision"

    def __init__(self) -> None:
        super().__init__()
        self.preprocess = Preprocess(2)
        self.linear = nn.Linear(12, 32)

    def encode_patches(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1)).unflatten(1, (1, 32))


class Projector(PlainComponent):
    name = "projector"
    takes, num_image_tokens = "patches", 1

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return self.linear(patches)


def _model(decoder: Any, checkpointed_layers: int) -> VisionLanguageModel:
    torch.manual_seed(3)
    model = VisionLanguageModel(Tower(), Projector(), decoder, image_token_id=4)
    model.checkpointed_layers = checkpointed_layers
    return model


def _loss_and_gradients(model: VisionLanguageModel, rank: int) -> list[Any]:
    # Rows of another length on the other rank, so the head runs another number of times.
    generator = torch.Generator().manual_seed(rank)
    length = 9 + 4 * rank
    tokens = torch.randint(5, 90, (2, length), generator=generator)
    tokens[:, 2] = 4
    predicts = (torch.arange(length) > 3).repeat(2, 1)
    images = torch.randint(256, (2, 3, 2, 2), dtype=torch.uint8, generator=generator)
    embeddings = model.embed(tokens, model.encode_images(images), torch.tensor([2, length + 2]))
    hidden = model.hidden(embeddings, None, torch.arange(length).repeat(2, 1))
    loss = label_loss(hidden[predicts], tokens[predicts], model.unembed, chunk_size=3)
    loss.backward()
    gradients = [[p.grad.flatten().tolist() for p in part.parameters()] for part in (model.tower, model.projector)]
    with torch.no_grad():
        output_positions = torch.tensor([1, length + 3])
        few = model.hidden_at(embeddings, output_positions, None, torch.arange(length).repeat(2, 1))
    return [loss.item(), gradients, few.flatten().tolist()]


@pytest.mark.processes
@pytest.mark.parametrize("checkpointed_layers", [0, 2, 3])
def test_divided_decoder_computes_what_the_whole_one_does(tmp_path: Path, checkpointed_layers: int) -> None:
    llm = tiny_llm(num_layers=3, intermediate_dim=63)  # one process gets fewer rows than the other
    plan = plan_llm(llm, write_hugging_face_llm(tmp_path, random_decoder(llm)))
    whole = plan.load("cpu", torch.float32)

    def work(world: DistributedContext) -> Any:
        sharder, held = LayerSharder(world, 3), []

        def after_layer(layer: nn.Module) -> None:
            sharder(layer)
            held.append(sum(p.to_local().numel() for p in layer.parameters()))

        decoder = plan.load("cpu", torch.float32, after_layer)
        before = llm_fingerprint(decoder)
        model = _model(decoder, checkpointed_layers)
        first = _loss_and_gradients(model, world.rank)
        model.zero_grad()
        second = _loss_and_gradients(model, world.rank)
        divided = [isinstance(p, DTensor) for layer in decoder.layers for p in layer.parameters()]
        others = [decoder.tok_embeddings.weight, decoder.output.weight, decoder.norm.scale]
        return (
            [first, second],
            [before, llm_fingerprint(decoder)],
            all(divided) and not any(isinstance(p, DTensor) for p in others),
            held,
        )

    layer_size = sum(p.numel() for p in whole.layers[0].parameters())
    results = run_in_processes(work)
    for rank, (found, fingerprints, divided, _) in enumerate(results):
        expected = _loss_and_gradients(_model(whole, checkpointed_layers), rank)
        for loss, gradients, few in found:
            assert loss == pytest.approx(expected[0], rel=1e-6)
            for part, other in itertools.product(range(2), range(2)):
                torch.testing.assert_close(
                    torch.tensor(gradients[part][other]), torch.tensor(expected[1][part][other]), rtol=1e-5, atol=1e-5
                )
            torch.testing.assert_close(torch.tensor(few), torch.tensor(expected[2]), rtol=1e-5, atol=1e-5)
        assert fingerprints == [llm_fingerprint(whole)] * 2
        assert divided
    assert [sum(held) for held in zip(*(held for *_, held in results), strict=True)] == [layer_size] * 3


@pytest.mark.processes
def test_each_node_has_the_whole_decoder_between_its_processes(tmp_path: Path) -> None:
    llm = tiny_llm()
    plan = plan_llm(llm, write_hugging_face_llm(tmp_path, random_decoder(llm)))
    whole = plan.load("cpu", torch.float32)

    def work(world: DistributedContext) -> Any:
        decoder = plan.load("cpu", torch.float32, LayerSharder(world, 2))
        weight = decoder.layers[0].attn.q_proj.weight
        # Node 1 asks more often than node 0: they do not wait for each other.
        prints = {llm_fingerprint(decoder) for _ in range(1 + world.node)}
        return prints == {llm_fingerprint(whole)}, list(weight.to_local().shape), weight.device_mesh.mesh.tolist()

    assert run_in_processes(work, size=4, local_size=2) == [
        (True, [16, 32], [0, 1]),
        (True, [16, 32], [0, 1]),
        (True, [16, 32], [2, 3]),
        (True, [16, 32], [2, 3]),
    ]


def _configuration(workspace: Workspace, *overrides: str) -> DistributedConfiguration:
    options = [*workspace.model_overrides(), f"dataset.source={workspace.data}", "output_dir=.", "vision.width=32"]
    file = OmegaConf.load(packaged_configs()["medcap/tiny/single_device"])
    return check(OmegaConf.merge(file, OmegaConf.from_dotlist([*options, *overrides])), DistributedConfiguration)


@pytest.mark.processes
def test_plan_takes_everything_from_the_configuration_and_agrees_on_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path)
    cfg = _configuration(workspace)
    plan = plan_model(cfg)
    whole = plan.llm.load("cpu", torch.float32)

    def work(world: DistributedContext) -> Any:
        # The second process has less than the model takes; the first one has plenty.
        monkeypatch.setattr(
            "medcap.training.distributed.parallelism.device_memory", lambda *_: GB if world.rank == 0 else 10**6
        )
        chosen = plan_parallelism(cfg, plan, world, torch.float32)
        decoder = plan.llm.load(chosen.load_device, torch.float32, chosen.after_layer)
        replicated = plan_parallelism(_configuration(workspace, "parallelism=replicate"), plan, world, torch.float32)
        divided = [isinstance(p, DTensor) for p in decoder.layers.parameters()]
        same = llm_fingerprint(decoder) == llm_fingerprint(whole)
        return chosen.why, chosen.sharded and all(divided) and same, replicated.after_layer, replicated.sharded

    first, second = run_in_processes(work)
    assert first == second
    why, divided, after_layer, sharded = first
    assert why.startswith(
        "parallelism=shard: the language model's layers divided over the 2 processes of a node (whole"
    )
    assert (divided, after_layer, sharded) == (True, None, False)


@pytest.mark.slow
def test_estimate_counts_what_trains_and_the_images_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path)
    found: list[MemoryEstimate] = []

    def note(wanted: str, world: DistributedContext, needed: MemoryEstimate, *_: Any) -> tuple[str, str]:
        found.append(needed)
        return "replicate", wanted

    monkeypatch.setattr("medcap.training.distributed.parallelism.choose", note)
    world = DistributedContext(0, 1, 0, 1, CPU)
    for overrides in (
        [],
        ["trainable=[projector]"],
        ["dataset.packed=false"],
        ["enable_activation_checkpointing=true"],
        ["llm_weights=int8"],
        ["dataset.packed=false", "vision.tiles=4"],
    ):
        cfg = _configuration(workspace, *overrides)
        plan_parallelism(cfg, plan_model(cfg), world, torch.float32)
    everything, projector, unpacked, checkpointed, quantised, tiled = found
    model = plan_model(_configuration(workspace)).load(CPU, torch.float32)
    trained = sum(parameter.numel() for parameter in set_trainable(model, ["vision", "projector"]).values())
    assert everything.trained == everything.optimizer == trained * 8
    assert projector.trained == sum(parameter.numel() for parameter in model.projector.parameters()) * 8
    # 4 images in each of 8 packed rows of 320 tokens, against one for each of 8 samples; 310,144 bytes an image
    assert everything.activations - unpacked.activations == (32 - 8) * 310_144
    # An image with tiles has at most 5 pictures.
    assert tiled.activations - unpacked.activations == (40 - 8) * 310_144
    assert 0 < checkpointed.activations < everything.activations
    assert quantised.layers < everything.layers / 3
