"""Folders with a small tokenizer.json and a chat template, each in the structure of a released family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

_TEXTS = [
    "Chest X-ray shows clear lungs.\n\nWhat is shown in the image? Is it normal?\n",
    "Yes, it is. No. Be brief. user assistant system model final Question: Answer: User: Assistant:",
] * 20
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_DIGITS = {"qwen3": r"\p{N}", "llama3": r"\p{N}{1,3}"}
_SPLIT = r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# The templates are ours, and write what the families' own ones write for these turns.
_QWEN3 = """\
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- if m.role != 'assistant' %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
    {%- else %}
        {%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip() if '</think>' in m.content %}
        {%- set said = m.content.split('</think>')[-1].lstrip('\\n') %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last %}{{- '<think>\\n' + (thought or '') + '\\n</think>\\n\\n' }}{% endif %}
        {{- said + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""
_GEMMA3 = """\
{{ bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set prefix = messages[0].content + '\\n\\n' %}{% set turns = messages[1:] %}
{%- else %}{% set prefix = '' %}{% set turns = messages %}{% endif %}
{%- for m in turns %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + (prefix if loop.first else '') }}
    {{- m.content | trim }}{{ '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{% endif %}"""
_GPT_OSS = """\
{{- '<|start|>system<|message|>Current date: ' + strftime_now('%Y-%m-%d') + '\\n\\nReasoning: '
    + (reasoning_effort or 'medium') + '\\n\\n# Valid channels: analysis, commentary, final.<|end|>' }}
{%- for m in messages %}
    {%- if m.role == 'system' %}
        {{- '<|start|>developer<|message|># Instructions\\n\\n' + m.content + '\\n\\n<|end|>' }}
    {%- elif m.role == 'user' %}{{- '<|start|>user<|message|>' + m.content + '<|end|>' }}
    {%- else %}
        {{- '<|start|>assistant<|channel|>final<|message|>' + m.content }}
        {{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{% endif %}"""
_PHI3 = """\
{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{% else %}{{- eos_token }}{% endif %}"""
_PHI4 = """\
{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""
_MISTRAL = """\
{%- set system = messages[0].content if messages[0].role == 'system' %}
{%- set turns = messages[1:] if system else messages %}
{{- bos_token }}
{%- for m in turns %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate') }}{% endif %}
    {%- if m.role == 'user' %}
        {{- '[INST] ' + (system + '\\n\\n' if loop.last and system else '') + m.content + '[/INST]' }}
    {%- else %}{{- ' ' + m.content | trim + eos_token }}{% endif %}
{%- endfor %}"""
_LLAMA3 = """\
{%- if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}
{%- set system = messages[0].content | trim if messages[0].role == 'system' else '' %}
{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}
{{- bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n' }}
{{- system + '<|eot_id|>' }}
{%- for m in turns %}
    {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
_OLMO2 = """\
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {{- '<|assistant|>\\n' + m.content + eos_token + ('' if loop.last else '\\n') }}
    {%- else %}{{- '<|' + m.role + '|>\\n' + m.content + '\\n' }}{% endif %}
    {%- if loop.last and add_generation_prompt %}{{- '<|assistant|>\\n' }}{% endif %}
{%- endfor %}"""
_GLM4 = """\
{{- '[gMASK]<sop>' }}
{%- for m in messages %}{{- '<|' + m.role + '|>\\n' + m.content }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{% endif %}"""

# name -> template; names of the special tokens that the template reads; those of generation_config.json; special
# tokens; tokens that the file does not call special.
_FAMILIES: dict[str, tuple[str | None, dict[str, str], list[str], list[str], list[str]]] = {
    "qwen3": (
        _QWEN3,
        {"eos_token": "<|im_end|>"},
        ["<|im_end|>", "<|endoftext|>"],
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        ["<tool_call>", "</tool_call>", "<think>", "</think>"],
    ),
    "gemma3": (
        _GEMMA3,
        {"bos_token": "<bos>", "eos_token": "<eos>"},
        ["<eos>", "<end_of_turn>"],
        ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
        ["<unused0>", "\n\n", "<b>", "</b>"],
    ),
    "gpt_oss": (
        _GPT_OSS,
        {"bos_token": "<|startoftext|>", "eos_token": "<|return|>"},
        ["<|return|>", "<|endoftext|>"],
        ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>"],
        [],
    ),
    "phi3": (
        _PHI3,
        {"bos_token": "<s>", "eos_token": "<|endoftext|>"},
        ["<|endoftext|>", "<|assistant|>", "<|end|>"],
        ["<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"],
        [],
    ),
    "phi4": (
        _PHI4,
        {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"},
        ["<|im_end|>", "<|endoftext|>"],
        ["<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>"],
        [],
    ),
    "mistral": (_MISTRAL, {"bos_token": "<s>", "eos_token": "</s>"}, ["</s>"], ["<unk>", "<s>", "</s>"], []),
    "mistral_v3": (
        _MISTRAL,
        {"bos_token": "<s>", "eos_token": "</s>"},
        ["</s>"],
        ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
        [],
    ),
    "llama3": (
        _LLAMA3,
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
        [
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|eot_id|>",
        ],
        [],
    ),
    "olmo2": (
        _OLMO2,
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        ["<|endoftext|>"],
        ["<|endoftext|>", "<|pad|>"],
        [],
    ),
    "glm4": (
        _GLM4,
        {"eos_token": "<|endoftext|>"},
        ["<|endoftext|>", "<|user|>", "<|observation|>"],
        ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"],
        [],
    ),
    # Without a chat template.
    "phi1_5": (None, {"eos_token": "<|endoftext|>"}, ["<|endoftext|>"], ["<|endoftext|>"], []),
}
CHAT_FAMILIES = tuple(name for name, family in _FAMILIES.items() if family[0] is not None)
_SENTENCEPIECE = {"gemma3": "none", "phi3": "every", "mistral": "every", "mistral_v3": "first"}


def chat_template_folder(family: str, folder: Path) -> Path:
    """Write tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json.

    Args:
        family: one of ``CHAT_FAMILIES``, or ``phi1_5``, which has no chat template.
        folder: where to write; it is made.

    Returns:
        The folder.
    """
    template, names, stops, special, plain = _FAMILIES[family]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _sentencepiece(special, _SENTENCEPIECE[family]) if family in _SENTENCEPIECE else _byte_level(family)
    # Phi-3's tokens take the white space behind them.
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False, rstrip=family == "phi3" and "|" in name) for name in special]
    )
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in plain])
    if family in ("llama3", "gemma3", "mistral", "mistral_v3", "phi3"):
        bos = names["bos_token"]
        ids = [(bos, tokenizer.token_to_id(bos))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ids)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    write(folder / "tokenizer_config.json", settings)
    write(folder / "generation_config.json", {"eos_token_id": [tokenizer.token_to_id(name) for name in stops]})
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def write(file: Path, content: Any) -> None:
    """Write JSON."""
    file.write_text(json.dumps(content), encoding="utf-8")


def _byte_level(family: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=family == "llama3"))
    if family == "qwen3":
        tokenizer.normalizer = normalizers.NFC()
    if family == "phi1_5":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        pattern = _CONTRACTIONS + _SPLIT % _DIGITS.get(family, _DIGITS["llama3"])
        steps = [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        _TEXTS,
        trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    return tokenizer


def _sentencepiece(special: list[str], blank: str) -> Tokenizer:
    """Train BPE with bytes; ``blank`` says before which texts a blank is put: none, the first, or every one."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never" if blank == "none" else "always")
    reserved = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    # Line breaks are bytes or words of their own in the released files.
    lines = [line for text in _TEXTS for line in text.split("\n") if line] + ["[INST] [/INST]"] * 20
    tokenizer.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=450, special_tokens=reserved, show_progress=False)
    )
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    if blank == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        replace = normalizers.Replace(" ", "▁")
        every = normalizers.Sequence([normalizers.Prepend("▁"), replace])
        tokenizer.normalizer = every if blank == "every" else replace
        # Gemma's file splits at blanks, of which its normaliser leaves none; the others do not split.
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, *([] if blank == "none" else [decoders.Strip(" ", 1, 0)])])
    return tokenizer
