"""The model card of an export, written from the run: what it is, what it learnt from, what it scored, what for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcap.checkpoints.history import describe_history
from medcap.evaluation.summary import value_at
from medcap.export.adapter_folder import APART, MERGED
from medcap.export.llava.vision import oldest_transformers
from medcap.export.run_facts import RunFacts
from medcap.models.component_registry import COMPONENTS
from medcap.models.towers.base import Tower
from medcap.report.intervals import NO_INTERVAL, between
from medcap.report.protocol_table import CONTROL_NAMES
from medcap.scoring.protocols.coco import Coco
from medcap.scoring.statistics import LEVEL, NUMBER, SHARE, Interval, with_width

CARD = "README.md"
# Builders' modules -> the hub's names of their licences.
_LICENCES = {
    "llama2": "llama2",
    "llama3": "llama3",
    "llama3_1": "llama3.1",
    "llama3_2": "llama3.2",
    "llama3_3": "llama3.3",
}
# An encoder alone is loaded by whichever library it comes from.
_LIBRARIES = {"hf": "transformers", "medcap": "medcap"}
_USE = {
    "hf": """\
```python
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

folder = "."  # this repository's name, or its folder
# backend="pil" gives the pixels that the model was trained with; the default differs by a rounding step in a few.
processor = AutoProcessor.from_pretrained(folder, backend="pil")
model = LlavaForConditionalGeneration.from_pretrained(folder, device_map="auto")
turn = [{"type": "image", "image": Image.open("chest.png")}, {"type": "text", "text": "Is there a mass?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": turn}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
).to(model.device, model.dtype)
answer = model.generate(**inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1]:]
print(processor.decode(answer, skip_special_tokens=True))
```

An image alone asks for a caption. With medcap, `medcap import . --out RUN` makes a run of this folder again, to go on
training from or to score.
""",
    "medcap": """\
`meta_model.pt` is read by medcap 2024 as `vision_checkpoint`, and by medcap as it is, or as a run after
`medcap import meta_model.pt --vision biomedclip --llm FOLDER --out RUN`. The language model is not part of it.
""",
}
# The part of the three that a format leaves out.
_WITHOUT = {
    "vision": "\nThis folder holds the vision tower alone, for other work than answers in words.\n",
    "medcap": "\nThis folder holds the vision tower and the projector; the language model is its makers' own.\n",
}
_LIMITS = """\
## Intended use

Research on medical images and text. **Not for clinical use**: it is not a medical device, it is not approved for
diagnosis or treatment, and it must not decide about a patient, alone or beside a physician.

## Limits

- In words it makes things up, fluently: findings that are not there, sides and sizes that are wrong.
- Where a score above stays as high with the images shuffled, it does not come from the image.
- What the training data lacks (devices, populations, rare diseases, other languages than theirs) it has not learnt.
- An answer can repeat what stood in its training data; look at the licences and the consent behind these.
"""


def write_model_card(folder: Path, facts: RunFacts, format: str, notices: Sequence[str] = ()) -> None:
    """Write ``README.md``.

    Args:
        folder: the export's.
        facts: facts of the run.
        format: format of the export.
        notices: notices of the export; of an encoder alone they say how it is loaded.
    """
    (folder / CARD).write_text(model_card(facts, format, notices), encoding="utf-8")


def model_card(facts: RunFacts, format: str, notices: Sequence[str] = ()) -> str:
    """Return the card's text.

    Args:
        facts: facts of the run.
        format: format of the export.
        notices: notices of the export; of an encoder alone they say how it is loaded.
    """
    told = [notice for notice in notices if format not in _USE or notice in (APART, MERGED)]
    use = (
        _USE.get(format, "")
        + ("\n" if told and format in _USE else "")
        + "".join(f"- {_without_folders(notice)}\n" for notice in told)
    )
    if format == "hf":
        oldest = oldest_transformers(facts.vision.tower_spec)
        use = (
            f"With transformers {oldest} or later: earlier releases may read other features of this tower, without a"
            f" word.\n\n{use}"
        )
    parts = [_front_matter(facts, format), _what(facts, format), _data(facts), _training(facts), _scores(facts)]
    parts += [f"## Use\n\n{use}" if use else "", _LIMITS, _licences(facts)]
    return "\n".join(part for part in parts if part)


def _front_matter(facts: RunFacts, format: str) -> str:
    alone = format == "vision"
    bases = [name for name in (None if alone else facts.language_model_on_hub, facts.tower_on_hub) if name]
    lines = [
        "---",
        *([f"library_name: {_LIBRARIES[format]}"] if format in _LIBRARIES else []),
        f"pipeline_tag: {'image-feature-extraction' if alone else 'image-text-to-text'}",
        f"license: {'other' if alone else _licence(facts)}",
        *(["base_model:", *(f"- {name}" for name in bases)] if bases else []),
        "tags:",
        "- medical",
        *([] if alone else ["- llava"]),
        "- medcap",
        "---",
    ]
    return "\n".join(lines) + "\n"


def _without_folders(notice: str) -> str:
    """Return the words of a notice with a folder's last name in place of its path."""
    return re.sub(r"(?<![\w.])[\w.~-]*/[\w./-]*", lambda found: Path(found.group()).name, notice)


def _what(facts: RunFacts, format: str) -> str:
    llm = facts.vision.llm
    earlier = [name for entry in facts.vision.history for name in entry.get("trained", [])]
    trainable = [*(facts.config.get("trainable") or []), *earlier]
    components = "".join(
        f"| {COMPONENTS[name].label} | {_component(facts, name)} | {_yes(name in trainable)} |\n"
        for name in facts.vision.configs
    )
    fingerprint = f", fingerprint `{llm['fingerprint'][:16]}`" if llm.get("fingerprint") else ""
    title = f"{facts.language_model} that sees medical images"
    if format == "vision":
        title = f"{_cell(facts.tower)}, tuned on medical images through a frozen {facts.language_model}"
    return f"""\
# {title}

{_how_it_was_made(facts) if trainable else "Imported into medcap and written again; nothing was trained there."}

| part | | trained |
|---|---|---|
{components}| language model | {_cell(facts.language_model)}{fingerprint} | no |
{_WITHOUT.get(format, "")}"""


def _component(facts: RunFacts, name: str) -> str:
    summary = COMPONENTS[name].summary(facts.vision.configs[name])
    return f"{_cell(facts.tower)}, {summary}" if name == Tower.name else summary


def _how_it_was_made(facts: RunFacts) -> str:
    before, after = (facts.summary.get(f"llm_sha256_{when}") for when in ("before", "after"))
    proof = "; its weights had one and the same fingerprint before and after" if before and before == after else ""
    precision = facts.vision.llm.get("weights", "bf16")
    seen = "" if precision == "bf16" else f" Training saw it in {precision}."
    adapters = [COMPONENTS[name].label for name in facts.vision.configs if COMPONENTS[name].changes_language_model]
    if adapters:
        return (
            f"A vision tower, a projector and {' and '.join(adapters)}, trained with medcap so that a frozen language"
            f" model understands images. Training changed no weight of the language model itself{proof}; what makes it"
            f" answer differently are the {' and '.join(adapters)}.{seen}"
        )
    return (
        "A vision tower and a projector, trained with medcap so that a frozen language model understands images. Not"
        f" one weight of the language model was changed{proof}.{seen}"
    )


def _data(facts: RunFacts) -> str:
    named = ", ".join(f"`{name}`" for name in facts.data) or "not recorded"
    lines = [f"## Data\n\n- source: {named}"]
    if view := (facts.config.get("dataset") or {}).get("view"):
        keys = ", ".join(f"{key}: {value}" for key, value in view.items() if value is not None)
        lines.append(f"- images were looked at with `{keys}` where a row did not say otherwise: show them so")
    if "samples" in facts.summary:
        bad = facts.summary.get("bad_rows", 0)
        lines.append(f"- rows: {facts.summary['samples']:,}; rows that could not be used: {bad:,}")
    if facts.data_fingerprint:
        lines.append(f"- fingerprint of rows, tokenizer and settings: `{facts.data_fingerprint}`")
    lines += [f"- before that: {_without_folders(line)}" for line in describe_history(facts.vision.history[:-1])]
    return "\n".join(lines) + "\n"


def _training(facts: RunFacts) -> str:
    config = facts.config
    optimizer = dict(config.get("optimizer") or {})
    settings = {
        "steps": facts.summary.get("steps"),
        "epochs": config.get("epochs"),
        "batch size": config.get("batch_size"),
        "gradient accumulation": config.get("gradient_accumulation_steps"),
        "processes": facts.summary.get("processes"),
        "optimizer": str(optimizer.get("_component_", "")).rpartition(".")[2] or None,
        "learning rate": optimizer.get("lr"),
        "weight decay": optimizer.get("weight_decay"),
        "schedule": _schedule(config.get("lr_scheduler")),
        "gradient clipping": config.get("clip_grad_norm"),
        "tokens a sample at most": (config.get("dataset") or {}).get("max_seq_len"),
        "seed": config.get("seed"),
        "trained parameters": facts.summary.get("trained_parameters"),
    }
    rows = [f"| {name} | {_number(value)} |" for name, value in settings.items() if value is not None]
    if not rows:
        return ""
    return "\n".join(["## Training\n", "| setting | value |", "|---|---|", *rows]) + "\n"


def _scores(facts: RunFacts) -> str:
    others = ", ".join(dict.fromkeys(facts.other_scores))
    left_out = f"\nLeft out, because they were made with another checkpoint: {others}.\n" if others else ""
    if not facts.scores:
        return f"## Scores\n\nNone were measured for this checkpoint.\n{left_out}"
    controls = sorted({name for metrics in facts.scores for block in _blocks(metrics) for name in block["controls"]})
    heads = ["task", "protocol", "score", "value", "95 % interval", "rows", "failures"]
    heads += [CONTROL_NAMES.get(str(name), str(name)) for name in controls]
    lines = ["## Scores\n", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    notes = []
    for metrics in facts.scores:
        lines += [f"| {' | '.join(row)} |" for row in _score_rows(metrics, controls)]
        dataset = metrics.get("dataset", {})
        name = Path(str(dataset.get("source", ""))).name or "not recorded"
        notes.append(
            f"- {metrics['task']}: {dataset.get('rows', '?')} rows of `{name}`, fingerprint"
            f" `{str(dataset.get('sha256'))[:16]}`"
        )
    explained = (
        "\nEvery failure stays in the denominator; intervals are bootstrapped over rows, and Wilson's where all rows"
        " are right or all wrong. In the control columns the same questions were asked with another image, or none: a"
        " score that does not fall there does not come from the image.\n"
    )
    return "\n".join([*lines, explained, *notes]) + "\n" + left_out


def _score_rows(metrics: Mapping[str, Any], controls: list[str]) -> Iterator[list[str]]:
    for block in _blocks(metrics):
        score = block["headline"]
        interval = value_at(block["intervals"], score)
        between = _between(interval, value_at(block["scores"], score), block.get("n", metrics.get("n")), score)
        others = [value_at(block["controls"].get(name, {}).get("scores", {}), score) for name in controls]
        yield [
            metrics["task"],
            block["protocol"],
            str(score),
            _share(value_at(block["scores"], score)),
            between,
            f"{block.get('n', metrics.get('n', '?'))}",
            f"{block.get('failures', metrics.get('failures', '?'))}",
            *map(_share, others),
        ]


def _between(interval: Mapping[str, Any] | None, value: float | None, rows: int | None, score: str) -> str:
    if not interval:
        return NO_INTERVAL if rows == 1 else "–"
    found = Interval(value or 0.0, interval["low"], interval["high"], interval.get("level", LEVEL), 0)
    if rows and value is not None:
        # Results of older versions have intervals of no width at 0 and 1.
        found = with_width(found, rows, NUMBER if score == Coco.headline else SHARE)
    return between(found.low, found.high, "{:.4f}".format)


def _blocks(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(metrics["protocols"].values())


def _licences(facts: RunFacts) -> str:
    llama3 = _licence(facts).startswith("llama3")
    asks = (
        ' Llama 3\'s community licence asks whoever hands such weights on to add its text, to write "Built with Llama"'
        " where people see it, and to begin the model's name with Llama."
        if llama3
        else ""
    )
    built = "\nBuilt with Llama.\n" if llama3 else ""
    return f"""\
## Licences

These weights inherit the licences of what they were made of: the language model's ({_cell(facts.language_model)}), the
vision tower's ({_cell(facts.tower)}), and what the training data allows; `license` above names the first.{asks}
{built}"""


def _licence(facts: RunFacts) -> str:
    family = str(facts.vision.llm.get("component", "")).removeprefix("torchtune.models.").partition(".")[0]
    return _LICENCES.get(family, "other")


def _schedule(scheduler: Any) -> str | None:
    if not isinstance(scheduler, Mapping):
        return None
    name = str(scheduler.get("_component_", "")).rpartition(".")[2].removeprefix("get_").replace("_", " ")
    warmup = scheduler.get("num_warmup_steps")
    return name if warmup is None else f"{name}, {warmup} steps of warm-up"


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _cell(str(value))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _cell(text: str) -> str:
    return text.replace("|", "/")


def _yes(trained: bool) -> str:
    return "yes" if trained else "no"
