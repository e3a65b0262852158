"""What turns words and pictures into a LLaVA folder's input: tokenizer, chat template, image processor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import cast

from torchtune.models.llama3 import Llama3Tokenizer

from medcap.checkpoints.hf_llama_writer import write_fast_tokenizer
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.errors import UserError
from medcap.export.image_processor import image_processor_config
from medcap.export.llava.vision import LlavaTower
from medcap.files import write_json
from medcap.models.preprocess import Preprocess
from medcap.models.tokenizers import IMAGE_TOKEN, free_special_token

IMAGE_WORD = "<image>"

# Llama 3's turns. A line break stands between a picture and words, as in the training records; a message's content is
# text, or a list of {"type": "image"} and {"type": "text", "text": ...}.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {%- if message['content'] is string %}
        {{- message['content'] | trim }}
    {%- else %}
        {%- set turn = namespace(text='', last='') %}
        {%- for part in message['content'] %}
            {%- set kind = 'text' if part['type'] == 'text' else 'image' %}
            {%- set piece = part['text'] if kind == 'text' else '<image>' %}
            {%- if turn.last and turn.last != kind and turn.text[-1:] != '\\n' and piece[:1] != '\\n' %}
                {%- set turn.text = turn.text + '\\n' %}
            {%- endif %}
            {%- set turn.text = turn.text + piece %}
            {%- set turn.last = kind %}
        {%- endfor %}
        {{- turn.text | trim }}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


def check_tokenizer(tokenizer: ChatTokenizer, vocab_size: int) -> int:
    """Find the token that stands for an image in the exported tokenizer.

    Args:
        tokenizer: the run's.
        vocab_size: rows of the language model's embedding table.

    Returns:
        The id of a special token that Llama 3 reserves and never uses: the embedding table stays as it is.

    Raises:
        UserError: if the tokenizer is not Llama 3's, or the table is too short for its special tokens.
    """
    inner = tokenizer.tokenizer
    if not isinstance(inner, Llama3Tokenizer):
        raise UserError(
            f"--format hf: the run's tokenizer is a {type(inner).__name__}, and only Llama 3's is exported so far;"
            " serve the run itself"
        )
    image_token = free_special_token(inner.base_vocab_size)
    used = {token for name, token in inner.special_tokens.items() if name != IMAGE_TOKEN}
    if image_token >= vocab_size or image_token in used:
        raise UserError(
            f"--format hf: token {image_token}, which Llama 3 reserves and could stand for images, is in use or has no"
            " embedding row; only Llama 3's own special tokens are exported"
        )
    return image_token


def write_tokenizer(folder: Path, tokenizer: ChatTokenizer, file: Path, image_token: int, max_seq_len: int) -> None:
    """Write tokenizer.json and its settings, chat_template.jinja, and original/tokenizer.model for torchtune.

    Args:
        folder: exists.
        tokenizer: the run's.
        file: its tokenizer.model.
        image_token: gets the name ``<image>``.
        max_seq_len: positions of the language model.
    """
    template = CHAT_TEMPLATE.replace(repr(IMAGE_WORD), json.dumps(tokenizer.image_text(IMAGE_WORD)))
    # The template says where a text begins: a tokenizer that did so too would begin it twice.
    write_fast_tokenizer(
        folder,
        cast(Llama3Tokenizer, tokenizer.tokenizer),
        file,
        max_seq_len,
        template,
        {image_token: IMAGE_WORD},
        adds_bos=False,
        added=tokenizer.added,
    )
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "original").mkdir()
    shutil.copyfile(file, folder / "original" / "tokenizer.model")


def write_processor(folder: Path, tower: LlavaTower, preprocess: Preprocess) -> None:
    """Write processor_config.json and preprocessor_config.json.

    Args:
        folder: exists.
        tower: says how many tokens an image becomes.
        preprocess: the tower's.
    """
    drops_first = tower.select_strategy == "default"
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE_WORD,
        "patch_size": tower.patch_size,
        "vision_feature_select_strategy": tower.select_strategy,
        # The processor takes one off for the strategy "default", so the class token must be counted first.
        "num_additional_image_tokens": 1 if drops_first else 0,
    }
    write_json(folder / "processor_config.json", processor)
    images = image_processor_config(preprocess) | {"processor_class": "LlavaProcessor"}
    write_json(folder / "preprocessor_config.json", images)
