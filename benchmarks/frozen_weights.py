"""What ``llm_weights`` costs and saves: errors of logits and of images' gradients, memory of layers, time on a GPU.

    make bench-frozen-weights
    python benchmarks/frozen_weights.py --preset llama3_1_8b --device cuda

Measured on the language model of ``medcap demo`` and its held-out questions if ``results/demo`` is there, else, and
with ``--preset``, on a Llama with random weights, made on the device, and random rows. Everything is compared with the
same weights computed in fp32, or in what ``--reference`` says. Written: ``results/benchmarks/frozen_weights.json`` and
``frozen_weights.md``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, kl_div

from medcap.checkpoints.build_model import DTYPES, choose_device, plan_model
from medcap.checkpoints.llm_architecture import build_decoder
from medcap.checkpoints.vision import plan_vision
from medcap.configs import packaged_configs
from medcap.configuration import check
from medcap.data.batch import Batch
from medcap.files import write_json, write_text
from medcap.models.decoders.transformers_model import Decoder
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.modules.frozen_linear import LLM_WEIGHTS, UNQUANTISED, FrozenLinear, quantise_layer
from medcap.modules.label_loss import IGNORE_INDEX
from medcap.training.data import TrainingData
from medcap.training.distributed.context import single_world
from medcap.training.keys import TrainingConfiguration

SMALL = {"vocab_size": 768, "num_layers": 4, "num_heads": 6, "num_kv_heads": 3, "embed_dim": 192}
PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "_component_": "torchtune.models.llama3_1.llama3_1",
        **SMALL,
        "intermediate_dim": 480,
        "max_seq_len": 2048,
    },
    "llama3_2_1b": {"_component_": "torchtune.models.llama3_2.llama3_2_1b"},
    "llama3_1_8b": {"_component_": "torchtune.models.llama3_1.llama3_1_8b"},
}
TINY_TOWER = {"name": "tiny", "image_size": 64, "stride": 16, "width": 128, "depth": 2, "heads": 4}
PROJECTOR = {"_component_": "medcap.models.mlp", "num_image_tokens": 16}
# Of the random rows' positions, every so many-th has a label.
LABEL_EVERY = 8
WARM_UP = 3


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        name: in words.
        load: ``llm_weights`` and dtype -> the model; the same weights each time.
        batches: what it computes on, on the device.
    """

    name: str
    load: Callable[[str, torch.dtype], VisionLanguageModel]
    batches: list[Batch]


@dataclass(frozen=True)
class Outputs:
    """Of one batch, float32: ``[n, V]`` log-probabilities at the labels, ``[m, d]`` gradient of the image rows."""

    log_probabilities: Tensor
    gradient: Tensor


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("results/demo"), help="folder of medcap demo (results/demo)")
    parser.add_argument("--preset", choices=PRESETS, help="a Llama with random weights instead of the demo's")
    parser.add_argument("--rows", type=int, default=4, help="random rows (4)")
    parser.add_argument("--row-length", type=int, default=1024, help="tokens in each (1024)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="computed in; both on the CPU, bf16 on a GPU")
    parser.add_argument("--reference", choices=DTYPES, default="fp32", help="what errors are measured against (fp32)")
    parser.add_argument("--compile", action="store_true", help="compile the layers, as training does with compile=true")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps on a GPU (10)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="where the table goes")
    options = parser.parse_args()
    device = choose_device(options.device)
    if options.preset is None and (options.demo / "train" / "summary.json").is_file():
        subject = demo_subject(options.demo, device)
    else:
        subject = random_subject(options.preset or "small", options.rows, options.row_length, device)
    dtypes = options.dtype or (["bf16"] if device.type == "cuda" else list(DTYPES))
    reference = DTYPES[options.reference]
    report = measure(subject, [DTYPES[name] for name in dtypes], options.compile, options.repeats, reference)
    write_json(options.out / "frozen_weights.json", report)
    write_text(options.out / "frozen_weights.md", table(report))
    print(table(report))


def demo_subject(demo: Path, device: torch.device) -> Subject:
    """Return the demo's trained model and the questions about its test images."""
    config: Any = OmegaConf.load(packaged_configs()["medcap/tiny/single_device"])
    config.checkpointer.checkpoint_dir = str(demo / "llm")
    config.tokenizer.path = str(demo / "llm/original/tokenizer.model")
    config.vision_checkpoint = str(demo / "train")
    config.dataset.source = str(demo / "data/test/questions.jsonl")
    cfg = check(config, TrainingConfiguration)
    plan = plan_model(cfg)
    data = TrainingData(cfg, plan.tokenizer, plan.vision.preprocess.transform(), single_world(device))
    batches = [batch.to(device) for step in data.steps(0, 0) for batch in step.batches if batch is not None]

    def load(llm_weights: str, dtype: torch.dtype) -> VisionLanguageModel:
        return replace(plan, llm=replace(plan.llm, llm_weights=llm_weights)).load(device, dtype)

    return Subject("the language model of medcap demo, questions about its held-out images", load, batches)


def random_subject(preset: str, rows: int, row_length: int, device: torch.device) -> Subject:
    """Return a Llama with random weights and random rows that each begin with an image."""
    llm = PRESETS[preset]
    meta = build_decoder(llm)
    dim, vocabulary = meta.tok_embeddings.embedding_dim, meta.tok_embeddings.num_embeddings
    vision = plan_vision(TINY_TOWER, None, PROJECTOR, dim)

    def load(llm_weights: str, dtype: torch.dtype) -> VisionLanguageModel:
        torch.manual_seed(0)
        tower, projector = vision.build()
        decoder = random_decoder(llm, llm_weights, device, dtype)
        return VisionLanguageModel(tower.to(device), projector.to(device), decoder, image_token_id=vocabulary)

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary, (rows, row_length), generator=generator)
    tokens[:, : vision.num_image_tokens] = vocabulary
    positions = torch.arange(row_length).repeat(rows, 1)  # [R, S]
    labelled = (positions >= vision.num_image_tokens) & (positions % LABEL_EVERY == 0) & (positions < row_length - 1)
    targets = torch.where(labelled, tokens.roll(-1, 1), IGNORE_INDEX)
    batch = Batch(
        tokens=tokens,
        targets=targets,
        input_pos=positions,
        document=torch.zeros_like(tokens),
        branch=torch.zeros_like(tokens),
        after_prompt_prefix=torch.zeros_like(tokens),
        target_positions=labelled.flatten().nonzero().flatten(),
        images=torch.randint(
            256, (rows, 3, TINY_TOWER["image_size"], TINY_TOWER["image_size"]), dtype=torch.uint8, generator=generator
        ),
        image_lengths=torch.full((rows,), vision.num_image_tokens),
        image_positions=(tokens.flatten() == vocabulary).nonzero().flatten(),
        num_tokens=tokens.numel(),
        counts={"text": int(labelled.sum())},
        static_shape=True,
    )
    return Subject(f"{preset} with random weights, random tokens and images", load, [batch.to(device)])


def random_decoder(llm: dict[str, Any], llm_weights: str, device: torch.device, dtype: torch.dtype) -> Decoder:
    """Make a decoder of Gaussian weights (variance 1 / inputs) layer by layer, so that a large one fits quantised."""
    decoder = build_decoder(llm)
    generator = torch.Generator(device).manual_seed(0)

    def fill(part: nn.Module) -> None:
        part.to_empty(device=device)
        with torch.no_grad():
            for parameter in part.parameters():
                if parameter.ndim == 1:
                    parameter.fill_(1)
                else:
                    parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
        part.to(dtype)

    for layer in decoder.layers:
        fill(layer)
        quantise_layer(layer, llm_weights)
    for part in (decoder.tok_embeddings, decoder.norm, decoder.output):
        if isinstance(part, nn.Module):  # an output head that is tied to the table is none
            fill(part)
    for part in decoder.modules():
        rebuild: Any = getattr(part, "rope_init", None)
        if rebuild is not None:
            with torch.device("cpu"):
                rebuild()
            part.to(device)
    return decoder


def measure(
    subject: Subject, dtypes: list[torch.dtype], compile_layers: bool, repeats: int, reference: torch.dtype
) -> dict[str, Any]:
    """Compare every precision with the unquantised model.

    Args:
        subject: what is measured.
        dtypes: what the quantised models compute in; the unquantised one is measured in these too.
        compile_layers: compile the layers before they are timed.
        repeats: timed steps, on a GPU.
        reference: what the unquantised model computes in; fp32 of 8 billion weights needs more than 80 GB.

    Returns:
        What the table shows.
    """
    model = subject.load(UNQUANTISED, reference)
    with torch.no_grad():
        image_rows = [model.encode_images(batch.images) for batch in subject.batches if batch.images is not None]
    expected = [run(model, batch, rows) for batch, rows in zip(subject.batches, image_rows, strict=True)]
    unquantised = layer_bytes(model.decoder) * 2 // reference.itemsize
    device = model.device
    del model
    results = []
    for dtype in dtypes:
        for llm_weights in LLM_WEIGHTS:
            if (llm_weights, dtype) == (UNQUANTISED, reference) and device.type == "cpu":
                continue  # the reference itself; on a GPU it is timed
            model = subject.load(llm_weights, dtype)
            found = [run(model, batch, rows) for batch, rows in zip(subject.batches, image_rows, strict=True)]
            held = layer_bytes(model.decoder)
            row = {"llm_weights": llm_weights, "computes_in": str(dtype).removeprefix("torch."), "layer_bytes": held}
            row |= {"share_of_bf16": held / unquantised, **errors(expected, found)}
            if model.device.type == "cuda":
                row |= times(model, subject.batches[0], image_rows[0], compile_layers, repeats)
            results.append(row)
            del model, found
    return {
        "machine": describe_machine() | {"bitsandbytes": version("bitsandbytes")},
        "subject": subject.name,
        "reference": str(reference).removeprefix("torch."),
        "labels": sum(batch.counts["text"] for batch in subject.batches),
        "images": sum(batch.num_images for batch in subject.batches),
        "tokens_of_a_timed_step": subject.batches[0].num_tokens,
        "compile": compile_layers,
        "repeats": repeats,
        "results": results,
    }


def run(model: VisionLanguageModel, batch: Batch, image_rows: Tensor) -> Outputs:
    """Forward and backward.

    Args:
        model: the decoder of which counts.
        batch: on its device.
        image_rows: ``[sum of K_i, d]``, the same for all models.
    """
    logits, targets, image_rows = _forward(model, batch, image_rows)
    cross_entropy(logits.float(), targets, reduction="sum").backward()
    assert image_rows.grad is not None
    return Outputs(logits.detach().float().log_softmax(dim=-1), image_rows.grad.float())


def _forward(model: VisionLanguageModel, batch: Batch, image_rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    image_rows = image_rows.to(model.dtype, copy=True).requires_grad_()
    model.cache_prompt_prefix(batch.prompt_prefix)
    hidden, targets = model.hidden_at_targets(batch, image_rows)
    return model.unembed(hidden), targets, image_rows


def errors(expected: list[Outputs], found: list[Outputs]) -> dict[str, float]:
    """Tell how far outputs are from the expected ones.

    Returns:
        The mean Kullback-Leibler divergence of the predicted from the expected next-token distributions in nats; the
        share of labels where the most likely token is the same; cosine of each image's gradient with the expected one,
        mean and lowest, and the mean ratio of their norms.
    """
    divergence, same, cosine, ratio = [], [], [], []
    for one, other in zip(expected, found, strict=True):
        terms = kl_div(other.log_probabilities, one.log_probabilities, reduction="none", log_target=True)
        divergence.append(terms.sum(dim=-1))
        same.append(one.log_probabilities.argmax(dim=-1) == other.log_probabilities.argmax(dim=-1))
        first, second = one.gradient.flatten(1), other.gradient.flatten(1)  # [N, K * d]
        cosine.append(cosine_similarity(second, first))
        ratio.append(second.norm(dim=1) / first.norm(dim=1))
    cosines = torch.cat(cosine)
    return {
        "kl": torch.cat(divergence).mean().item(),
        "same_top_token": torch.cat(same).float().mean().item(),
        "gradient_cosine": cosines.mean().item(),
        "gradient_cosine_lowest": cosines.min().item(),
        "gradient_norm_ratio": torch.cat(ratio).mean().item(),
    }


def layer_bytes(decoder: Decoder) -> int:
    """Bytes of the layers' weights as they are held."""
    quantised = [part for part in decoder.layers.modules() if isinstance(part, FrozenLinear)]
    held = [*decoder.layers.parameters(), *(tensor for part in quantised for tensor in part.buffers())]
    return sum(tensor.nbytes for tensor in held)


def times(
    model: VisionLanguageModel, batch: Batch, image_rows: Tensor, compile_layers: bool, repeats: int
) -> dict[str, float]:
    """Medians in milliseconds of the language model's forward pass, with its backward pass, and peak memory."""
    if compile_layers:
        torch._dynamo.reset()
        model.compile_layers()

    def forward() -> None:
        with torch.no_grad():
            _forward(model, batch, image_rows)

    weights: list[Any] = [
        part.quantised for part in model.decoder.modules() if getattr(part, "precision", None) == "fp8"
    ]
    result = {"forward_ms": _median(forward, repeats)}
    torch.cuda.reset_peak_memory_stats()
    result["step_ms"] = _median(lambda: run(model, batch, image_rows), repeats)
    result["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    if weights:
        result["transposing_ms"] = _median(lambda: [weight.t().contiguous() for weight in weights], repeats)
    return result


def _median(function: Callable[[], Any], repeats: int) -> float:
    seconds = []
    for _ in range(WARM_UP + repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[WARM_UP:])


def table(report: dict[str, Any]) -> str:
    """Return the report as markdown."""
    machine, results = report["machine"], report["results"]
    timed = "step_ms" in results[0]
    names = ["`llm_weights`", "computes in", "layers, MB", "of bf16", "KL, nats", "same top token"]
    names += ["gradient cosine", "lowest", "norm ratio"]
    names += ["forward, ms", "with backward, ms", "peak, GB"] if timed else []
    lines = [
        "# Low-precision frozen weights",
        "",
        f"{report['subject'][0].upper()}{report['subject'][1:]}: {report['labels']:,} labels, {report['images']:,}"
        f" images. Compared with the same weights computed in {report['reference']}: divergence of the next-token"
        " distributions at the"
        " labels, and cosine, of each image, of the gradient that reaches its rows. MB of 10^6 bytes.",
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, bitsandbytes"
        f" {machine['bitsandbytes']}, Python {machine['python']}. Made by `benchmarks/frozen_weights.py`.",
    ]
    if timed:
        lines += [
            f"Times: medians of {report['repeats']} steps of {report['tokens_of_a_timed_step']:,} tokens, the language"
            f" model alone, layers {'compiled' if report['compile'] else 'not compiled'}.",
        ]
    else:
        lines += ["fp8 is emulated on the CPU with the numbers that a GPU would multiply; it was not timed."]
    lines += ["", f"| {' | '.join(names)} |", "|---|---|" + "---:|" * (len(names) - 2)]
    for row in results:
        cells = [row["llm_weights"], row["computes_in"], f"{row['layer_bytes'] / 1e6:,.2f}"]
        cells += [f"{row['share_of_bf16']:.3f}", f"{row['kl']:.2g}", f"{row['same_top_token']:.2%}"]
        cells += [f"{row['gradient_cosine']:.4f}", f"{row['gradient_cosine_lowest']:.4f}"]
        cells += [f"{row['gradient_norm_ratio']:.3f}"]
        if timed:
            cells += [f"{row['forward_ms']:.1f}", f"{row['step_ms']:.1f}", f"{row['peak_memory_bytes'] / 1e9:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    transposing = [row["transposing_ms"] for row in results if "transposing_ms" in row]
    if transposing:
        lines += ["", f"Of fp8's backward pass, transposing the weights: {transposing[0]:.1f} ms."]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
