"""What memory a training step takes, computed from shapes: models, their precision and division, checkpointing.

    python benchmarks/memory.py

Nothing is downloaded and no weight is made. Written: ``results/benchmarks/memory.md``. The formulas are in
``medcap/training/memory.py``; a test holds them against what autograd keeps.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from decoder_adapters import RANK, adapters_for

from medcap.checkpoints.llm_architecture import build_decoder
from medcap.files import write_text
from medcap.models.projectors.base import build_projector
from medcap.models.towers.registry import build_tower, resolve_tower
from medcap.modules.frozen_linear import LLM_WEIGHTS, UNQUANTISED
from medcap.training.distributed.memory import MemoryEstimate, estimate, vision_activations

MODELS = {
    "Llama 3.2 1B": "torchtune.models.llama3_2.llama3_2_1b",
    "Llama 3.1 8B": "torchtune.models.llama3_1.llama3_1_8b",
    "Llama 3.1 70B": "torchtune.models.llama3_1.llama3_1_70b",
}
# Processes, processes that the layers are divided over, whether these wait in the host's memory.
LAYOUTS = {
    "1 GPU": (1, 1, False),
    "8 GPUs, replicate": (8, 1, False),
    "8 GPUs, shard": (8, 8, False),
    "8 GPUs, shard, cpu_offload": (8, 8, True),
}
# BiomedCLIP's tower without its text side.
TOWER = {"name": "timm:vit_base_patch16_224", "pretrained": False}
COLUMNS = ("frozen", "trained", "optimizer", "activations", "loss", "total")


def main() -> None:
    """Compute the table, print it and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="where the table goes")
    parser.add_argument("--rows", type=int, default=4, help="packed rows of a batch, on each GPU (4)")
    parser.add_argument("--row-length", type=int, default=1024, help="tokens in each of them (1024)")
    parser.add_argument("--images", type=int, default=16, help="images of a batch, on each GPU (16)")
    options = parser.parse_args()
    text = table(options.rows, options.row_length, options.images)
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "memory.md", text)
    print(text)


def table(rows: int, row_length: int, images: int) -> str:
    """Return the table as markdown.

    Args:
        rows: packed rows of a batch, on each GPU.
        row_length: tokens in each of them.
        images: of a batch, on each GPU.
    """
    lines = [
        "# Memory of a training step, computed",
        "",
        f"Bytes on each GPU for a batch of {rows} packed rows of {row_length} tokens with {images} images: language"
        " model in bf16, ViT-B/16 (BiomedCLIP's size, 224 pixels) and an MLP projector trained with fp32 weights and"
        " AdamW, `compile=false`, `loss_chunk_size=512`. In gigabytes of 10^9 bytes. Computed from shapes by"
        " `benchmarks/memory.py`, not measured; add some 10 % for what the allocator wastes and what kernels use while"
        " they run.",
        "",
        *_divisions(rows, row_length, images, adapters=False),
        "",
        f"With adapters, `llm_lora` of rank {RANK} on all linear maps, trained beside tower and projector:",
        "",
        *_divisions(rows, row_length, images, adapters=True),
    ]
    lines += [
        "",
        "With `llm_weights`, on 1 GPU, without activation checkpointing:",
        "",
        "| language model | `llm_weights` | " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---:|" * len(COLUMNS),
    ]
    for model, builder in MODELS.items():
        for llm_weights in LLM_WEIGHTS:
            found = _estimate(builder, rows, row_length, images, False, 1, llm_weights)
            cells = " | ".join(f"{value / 1e9:.1f}" for value in _values(found, 1, False))
            lines.append(f"| {model} | {llm_weights} | {cells} |")
    notes = [
        "",
        "frozen: weights of the language model; divided, also the two layers that are whole for a moment, and embedding"
        " table and head, which always are. trained: weights, gradients and the bf16 copies that autocast makes."
        " optimizer: AdamW's state, shared out over all processes. activations: what the backward pass needs, of the"
        " language model, its adapters and the tower. loss: one chunk of logits. `cpu_offload` keeps the divided"
        " layers in the host's memory: all of them once for each node.",
    ]
    return "\n".join([*lines, *notes]) + "\n"


def _divisions(rows: int, row_length: int, images: int, adapters: bool) -> list[str]:
    lines = [
        "| language model | division | activation checkpointing | " + " | ".join(COLUMNS) + " |",
        "|---|---|---|" + "---:|" * len(COLUMNS),
    ]
    for model, builder in MODELS.items():
        for layout, (processes, local_size, offload) in LAYOUTS.items():
            for checkpointing in (False, True):
                found = _estimate(builder, rows, row_length, images, checkpointing, processes, adapters=adapters)
                cells = " | ".join(f"{value / 1e9:.1f}" for value in _values(found, local_size, offload))
                lines.append(f"| {model} | {layout} | {'on' if checkpointing else 'off'} | {cells} |")
    return lines


def _estimate(
    builder: str,
    rows: int,
    row_length: int,
    images: int,
    checkpointing: bool,
    processes: int,
    llm_weights: str = UNQUANTISED,
    adapters: bool = False,
) -> MemoryEstimate:
    decoder = build_decoder(builder)
    source = resolve_tower(TOWER)
    with torch.device("meta"):
        tower = build_tower(source.spec, source.preprocess)
        projector = build_projector(
            {"_component_": "medcap.models.mlp"}, tower.shape, decoder.tok_embeddings.embedding_dim
        )
    unused = tower.unused_parameters(projector.takes)
    trained = [*projector.parameters(), *(p for name, p in tower.named_parameters() if name not in unused)]
    beside = images * vision_activations(tower, projector, torch.bfloat16)
    if adapters:
        with torch.device("meta"):
            added = adapters_for(decoder)
        trained += added.parameters()
        # As for the layers: where all are checkpointed, one is computed again at a time.
        beside += added.layer_activations(rows * row_length, torch.bfloat16) * (
            1 if checkpointing else len(decoder.layers)
        )
    return estimate(
        decoder,
        torch.bfloat16,
        rows,
        row_length,
        sum(parameter.numel() for parameter in trained),
        other_activations=beside,
        checkpointed_layers=len(decoder.layers) if checkpointing else 0,
        optimizer_shards=processes,
        llm_weights=llm_weights,
    )


def _values(found: MemoryEstimate, local_size: int, offload: bool) -> list[int]:
    parts = [found.frozen(local_size, offload), found.trained, found.optimizer, found.activations, found.loss]
    return [*parts, found.total(local_size, offload)]


if __name__ == "__main__":
    main()
