"""Ratios, bounds and tables of ``benchmarks/generation.py``."""

from __future__ import annotations

import statistics
from typing import Any

from training_workloads import PRESETS

# The open-access part of OmniMedVQA (Hu et al. 2024, https://arxiv.org/abs/2402.09181).
OMNIMEDVQA_QUESTIONS, OMNIMEDVQA_IMAGES = 88_996, 82_059


def ratios(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Our rate over that of each other side, repeat by repeat.

    Args:
        rates: of every repeat, by side.

    Returns:
        Median, lowest and highest, by side; nothing where ours did not fit.
    """
    if "ours" not in rates:
        return {}
    found = {}
    for side, values in rates.items():
        if side != "ours":
            each = [ours / theirs for ours, theirs in zip(rates["ours"], values, strict=True)]
            found[side] = {"median": statistics.median(each), "lowest": min(each), "highest": max(each)}
    return found


def bandwidth_bound(report: dict[str, Any]) -> dict[str, Any]:
    """Tell how near batch-1 decoding comes to reading the weights once for every token.

    Args:
        report: with its ``decoding``.

    Returns:
        The most tokens a second of every repeat, measured bandwidth over bytes of weights, and of each side the median
        share of it.
    """
    # The other sides' weights are not quantised, so the bound is not theirs.
    names = ["ours", "ours, compiled", "ours, CUDA graphs"]
    if report["llm_weights"] == "bf16":
        names += ["transformers", "transformers, static cache"]
    alone = report["decoding"][1]
    most = [bandwidth / report["token_bytes"] for bandwidth in alone["bandwidth_bytes_per_second"]]
    shares = {
        name: statistics.median(rate / bound for rate, bound in zip(rates, most, strict=True))
        for name, rates in alone["tokens_per_second"].items()
        if name in names
    }
    return {"tokens_per_second": most, "share": shares}


def table(report: dict[str, Any]) -> str:
    """Return the report as a page.

    Args:
        report: what ``measure`` gives.

    Returns:
        Markdown.
    """
    return "\n".join([*_head(report), *_decoding(report), *_scoring(report)]) + "\n"


def _head(report: dict[str, Any]) -> list[str]:
    machine, preset, bound = report["machine"], PRESETS[report["preset"]], report["bound"]
    quantised = f", our layers' weights in {report['llm_weights']}" if report["llm_weights"] != "bf16" else ""
    compiled = "; our decoding step compiled" if report["compile"] else ""
    bandwidth = [each / 1e9 for each in report["decoding"][1]["bandwidth_bytes_per_second"]]
    compared = len(report["decoding"][1]["agreement"]) > 1
    exact = report["dtype"] == "fp32" and not quantised
    shares = ", ".join(f"{name} {share:.0%}" for name, share in bound["share"].items())
    return [
        f"# Generation, preset {report['preset']}",
        "",
        f"Llama of {preset.layers} layers of width {preset.dim}, vocabulary {preset.vocab_size:,}, in"
        f" {report['dtype']}{quantised}; a CLIP tower of {preset.tower_layers} layers of width {preset.tower_dim};"
        f" {preset.image_tokens} image tokens; random weights{compiled}.",
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']},"
        f" transformers {machine['transformers']}, Python {machine['python']}; OpenMP's wait policy:"
        f" {report['wait_policy']}.",
        "Made by `benchmarks/generation.py`. "
        + (
            ("All sides gave the same greedy tokens and the same most likely options." if compared else "")
            if exact
            else "equal: the share of tokens or most likely options that are ours."
        ),
        "",
        f"Bound at batch 1: the rate at which a large tensor is read (median {statistics.median(bandwidth):.1f} GB/s,"
        f" {min(bandwidth):.1f} to {max(bandwidth):.1f}, measured in turn) over the"
        f" {report['token_bytes'] / 1e6:,.1f} MB of weights that a token reads (layers, final norm, output head) is"
        f" {statistics.median(bound['tokens_per_second']):,.1f} tokens/s. Of it, median share: {shares}.",
        "",
    ]


def _decoding(report: dict[str, Any]) -> list[str]:
    lines = [
        f"## Decoding, {report['new_tokens']} new tokens",
        "",
        "| batch | side | first tokens, s | tokens/s after them | lowest to highest | ours is faster | equal |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for batch_size, found in report["decoding"].items():
        for side, rates in found["tokens_per_second"].items():
            first = statistics.median(found["first_token_seconds"][side])
            lines.append(
                f"| {batch_size} | {side} | {first:.3g} | {_spread(rates)} | {_times(found, side)} |"
                f" {_equal(found, side)} |"
            )
        lines += [f"| {batch_size} | {side} | out of memory | | | | |" for side in found["out_of_memory"]]
    return [
        *lines,
        "",
        "first tokens: encoding the images, prefill and the first token of all rows; of the plain loop the"
        " mean of its tokens. ours is faster: median of our rate"
        " over theirs, lowest and highest. transformers: `generate`, prompts padded on the left.",
        "",
    ]


def _scoring(report: dict[str, Any]) -> list[str]:
    lines = ["## Likelihood of four options", ""]
    for name, found in report["scoring"].items():
        lines += [
            f"{name.capitalize()}: {found['questions']} questions, {found['images']} images.",
            "",
            "| side | questions/s | lowest to highest | ours is faster | equal |",
            "|---|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {side} | {_spread(rates)} | {_times(found, side)} | {_equal(found, side)} |"
            for side, rates in found["questions_per_second"].items()
        ]
        lines += [f"| {side} | out of memory | | | |" for side in found["out_of_memory"]]
        lines.append("")
    hours = ", ".join(f"{side} {statistics.median(each):.3g} h" for side, each in report["omnimedvqa_hours"].items())
    return [
        *lines,
        "transformers: a row for each option with question and image, padded, passes of as many tokens as ours;"
        " all logits, or with `logits_to_keep` those from the end of the shortest prompt on. Ours and the plain loops"
        " read image files; transformers is given pixels.",
        "",
        f"Projection, not measured: the open-access part of OmniMedVQA, {OMNIMEDVQA_QUESTIONS:,} questions on"
        f" {OMNIMEDVQA_IMAGES:,} images, at the rates of one question an image, questions and options as long as here:"
        f" {hours}.",
    ]


def _spread(rates: list[float]) -> str:
    return f"{statistics.median(rates):,.4g} | {min(rates):,.4g} to {max(rates):,.4g}"


def _times(found: dict[str, Any], side: str) -> str:
    ratio = found["ratios"].get(side)
    return f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})" if ratio else ""


def _equal(found: dict[str, Any], side: str) -> str:
    return "" if side == "ours" or side not in found["agreement"] else f"{found['agreement'][side]:.1%}"
