"""A language model on this machine: a Hugging Face checkpoint through transformers, in 4, 8 or 16 bit."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError

from medcap.data.json_text import parse_json
from medcap.errors import UserError
from medcap.generation.progress import Progress
from medcap.language_models.base import NOT_SENT, Admit, LanguageModel, OnReply, Prompt, Reply, Turn, turns_of
from medcap.models.foreign_files import check_file, check_safetensors

BITS = (4, 8, 16)
DTYPES = {"auto": "auto", "fp32": torch.float32, "bf16": torch.bfloat16}
_WINDOW_BATCHES = 16  # sorting by length within this many batches saves nearly all padding
_FINGERPRINT_BYTES = 1 << 20
_LONGEST_LINE = 300
_TURN_END = "<|eot_id|>"
# Otherwise Llama 3.2's template writes the date of the run into the prompt; 3.1's has this date by default.
_TEMPLATE_OPTIONS = {"date_string": "26 Jul 2024", "enable_thinking": False}


class LocalModel(LanguageModel):
    """A causal language model of transformers with its own chat template, decoded greedily.

    ``bits=4`` is nf4 with double quantisation and bf16 computation, ``bits=8`` int8 with threshold 6.0, both by
    bitsandbytes (myeongkyunkang/medcap, chat_llama3_quant.py); ``bits=16`` is the checkpoint unchanged. With
    ``bits=16`` and ``dtype="fp32"`` a reply does not depend on the batch; in lower precisions the matrix kernels may
    round differently for another batch.

    Args:
        checkpoint_dir: a downloaded Hugging Face folder: config.json, safetensors, tokenizer with a chat template.
        bits: number of bits of the weights, one of ``BITS``.
        device: device to run on; a GPU without a number means all of them, in order.
        dtype: ``auto``; with ``bits=16`` also ``fp32`` or ``bf16``.
        max_new_tokens: most tokens of a reply.
        batch_size: prompts that are decoded together.
        progress: show the progress on stderr.

    Raises:
        UserError: if the folder is not such a checkpoint, or this machine cannot run it so; nothing is loaded yet.

    Example:
        >>> model = LocalModel("./models/llama3/Meta-Llama-3.1-70B-Instruct", bits=4, device=torch.device("cuda"))
        >>> model.ask(["Name an organ."], lambda place, reply: print(place, reply.text))
    """

    kind: ClassVar[str] = "local"

    def __init__(
        self,
        checkpoint_dir: str | Path,
        bits: int = 4,
        device: torch.device | str = "cpu",
        dtype: str = "auto",
        max_new_tokens: int = 200,
        batch_size: int = 16,
        progress: bool = True,
    ) -> None:
        self.folder = Path(checkpoint_dir)
        self.bits = bits
        self.device = torch.device(device)
        self.dtype = dtype
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.progress = progress
        if bits not in BITS:
            raise UserError(f"bits={bits}: there are {', '.join(map(str, BITS[:-1]))} and {BITS[-1]}")
        if dtype != "auto" and bits != 16:
            raise UserError(f"dtype={dtype} goes with bits=16 only: bits={bits} decides the number format itself")
        _check_folder(self.folder)
        if bits != 16:
            _check_quantisation(bits, self.device)
        self._tokenizer = _Tokenizer(self.folder)

    @property
    def name(self) -> str:
        return f"{self.folder.resolve().name}_{self.bits}bit"

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "checkpoint": self.folder.resolve().name,
            "checkpoint_sha256": self._sha256,
            "template_sha256": hashlib.sha256(self._tokenizer.render("").encode()).hexdigest(),
            "bits": self.bits,
            "dtype": self.dtype,
            "max_new_tokens": self.max_new_tokens,
        }

    def ask(self, prompts: Sequence[str | Prompt], on_reply: OnReply, admit: Admit | None = None) -> None:
        model = self._model
        room = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
        with Progress(len(prompts), self.progress and len(prompts) > 1) as progress, torch.inference_mode():
            for batch in self._batches(prompts, room, on_reply):
                batch = _admitted(batch, on_reply, admit)
                if not batch:
                    continue
                try:
                    replies = self._decode(batch, room)
                except torch.OutOfMemoryError as error:
                    raise UserError(
                        f"the device's memory is too small for {len(batch)} prompts: lower batch_size={self.batch_size}"
                        " or bits; replies so far are kept"
                    ) from error
                for prompt, reply in zip(batch, replies, strict=True):
                    on_reply(prompt.position, reply)
                    progress.add(reply.num_tokens)

    def _batches(self, prompts: Sequence[str | Prompt], room: int, on_reply: OnReply) -> Iterator[list[_Encoded]]:
        """Yield prompts of similar length; one that is too long has its reply, an error."""
        window = self.batch_size * _WINDOW_BATCHES
        for start in range(0, len(prompts), window):
            encoded = [
                _Encoded(start + number, self._tokenizer.encode(prompt))
                for number, prompt in enumerate(prompts[start : start + window])
            ]
            for prompt in encoded:
                if len(prompt.tokens) >= room:
                    error = f"the prompt has {len(prompt.tokens)} tokens; the model reads and writes at most {room}"
                    on_reply(prompt.position, Reply("", "error", error=error))
            fitting = [prompt for prompt in encoded if len(prompt.tokens) < room]
            longest_first = sorted(fitting, key=lambda prompt: -len(prompt.tokens))
            for first in range(0, len(longest_first), self.batch_size):
                yield longest_first[first : first + self.batch_size]

    def _decode(self, batch: list[_Encoded], room: int) -> list[Reply]:
        from transformers import GenerationConfig

        limits = [min(self.max_new_tokens, room - len(prompt.tokens)) for prompt in batch]
        longest = len(batch[0].tokens)
        stop = self._tokenizer.stop_tokens
        # Padding on the left, so that all replies start at one place.
        padding = [longest - len(prompt.tokens) for prompt in batch]
        tokens = [[stop[0]] * empty + prompt.tokens for empty, prompt in zip(padding, batch, strict=True)]
        mask = [[0] * empty + [1] * (longest - empty) for empty in padding]
        output = self._model.generate(
            input_ids=torch.tensor(tokens, device=self._model.device),  # [R, S]
            attention_mask=torch.tensor(mask, device=self._model.device),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=max(limits), eos_token_id=stop, pad_token_id=stop[0]
            ),
        )
        rows = output[:, longest:].tolist()
        return [
            self._tokenizer.reply(row[:limit], len(prompt.tokens))
            for row, limit, prompt in zip(rows, limits, batch, strict=True)
        ]

    @cached_property
    def _sha256(self) -> str:
        return _fingerprint(self.folder)

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig

        options: dict[str, Any] = {"dtype": DTYPES[self.dtype]}
        if self.bits == 4:
            options["dtype"] = torch.bfloat16
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.bfloat16,
            )
        elif self.bits == 8:
            options["dtype"] = torch.float16
            options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6.0)
        placed = importlib.util.find_spec("accelerate") is not None
        if placed:
            everywhere = self.device.type == "cuda" and self.device.index is None
            options["device_map"] = "auto" if everywhere else {"": str(self.device)}
        try:
            model, found = AutoModelForCausalLM.from_pretrained(
                self.folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
            model = model if placed else model.to(self.device)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"checkpoint_dir={self.folder} does not fit into the device's memory with bits={self.bits}: use fewer"
                " bits, more GPUs or a smaller model"
            ) from error
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
            what = f"checkpoint_dir={self.folder} cannot be loaded with bits={self.bits}"
            raise UserError(f"{what}: {_one_line(error)}") from error
        # [Contract] transformers fills a tensor that is in no file with random values, and only warns.
        if found["missing_keys"]:
            raise UserError(
                f"checkpoint_dir={self.folder}: no *.safetensors file holds {sorted(found['missing_keys'])[0]}; is the"
                " download complete?"
            )
        # Only ours counts: a checkpoint's own may sample, or punish the repetition of words.
        model.generation_config = GenerationConfig()
        return model.eval()


@dataclass(frozen=True)
class _Encoded:
    position: int
    tokens: list[int]


class _Tokenizer:
    """A checkpoint's tokenizer and chat template."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        try:
            self._own = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, ImportError, RecursionError) as error:
            raise UserError(f"checkpoint_dir={folder}: its tokenizer cannot be read: {_one_line(error)}") from error
        if not self._own.chat_template:
            raise UserError(
                f"checkpoint_dir={folder} has no chat template, so it is no chat model: give an instruct checkpoint"
            )
        special = {str(token) for token in self._own.added_tokens_decoder.values() if token.special}
        self._special = sorted(token for token in special if len(token) > 1)
        ids = {self._own.eos_token_id, *_generation_stops(folder)}
        if _TURN_END in self._special:
            ids.add(self._own.convert_tokens_to_ids(_TURN_END))
        self.stop_tokens = sorted(token for token in ids if token is not None)
        if not self.stop_tokens:
            raise UserError(f"checkpoint_dir={folder}: its tokenizer has no end-of-text token")

    def render(self, prompt: str | Prompt) -> str:
        """Return the conversation as text, the assistant's turn opened."""
        from jinja2 import TemplateError

        turns = turns_of(prompt)
        try:
            return self._rendered(turns)
        except TemplateError:
            if turns[0].role != "system" or len(turns) == 1:
                raise
            # Gemma's template, for one, has no system turn: the user says it first.
            first = Turn(turns[1].role, f"{turns[0].content}\n\n{turns[1].content}")
            return self._rendered((first, *turns[2:]))

    def _rendered(self, turns: Sequence[Turn]) -> str:
        messages = [{"role": turn.role, "content": self._defused(turn.content)} for turn in turns]
        return self._own.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **_TEMPLATE_OPTIONS)

    def encode(self, prompt: str | Prompt) -> list[int]:
        """Its ids; the template has written the special tokens."""
        return self._own(self.render(prompt), add_special_tokens=False)["input_ids"]

    def reply(self, tokens: list[int], num_prompt_tokens: int) -> Reply:
        """Return what was said before the first stop token."""
        end = next((position for position, token in enumerate(tokens) if token in self.stop_tokens), None)
        text = self._own.decode(tokens[:end], skip_special_tokens=True).strip()
        finish = "length" if end is None else "stop"
        return Reply(text, finish, len(tokens[:end]), num_prompt_tokens=num_prompt_tokens)

    def _defused(self, text: str) -> str:
        # [Contract] an answer that spells the template's markers must not end the user's turn and open the model's.
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text


def _admitted(batch: list[_Encoded], on_reply: OnReply, admit: Admit | None) -> list[_Encoded]:
    """Return the prompts that may be asked; the others have their reply."""
    if admit is None:
        return batch
    asked: list[_Encoded] = []
    for prompt in batch:
        why = admit(prompt.position)
        if why:
            on_reply(prompt.position, Reply("", NOT_SENT, error=why))
        else:
            asked.append(prompt)
    return asked


def _one_line(error: BaseException) -> str:
    line = " ".join(str(error).split())
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..."


def _generation_stops(folder: Path) -> list[int]:
    # Gemma's end of turn, for one, is named here only.
    try:
        stops = parse_json((folder / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return []
    return stops if isinstance(stops, list) else [stops]


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        meta = "; a folder of Meta's format (original/) cannot be asked" if (folder / "original").is_dir() else ""
        raise UserError(
            f"checkpoint_dir={folder} has no config.json: give the folder of a downloaded Hugging Face model{meta}"
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(f"checkpoint_dir={folder} has no *.safetensors: download the model's safetensors files")
    try:
        for path in weights:
            check_safetensors(path)
        for path in sorted([*folder.glob("*.json"), *folder.glob("tokenizer.model")]):
            check_file(path, text=True)
    except UserError as error:
        raise UserError(f"checkpoint_dir: {error}") from None


def _check_quantisation(bits: int, device: torch.device) -> None:
    for package in ("bitsandbytes", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"bits={bits} needs the package {package}: pip install medcap[judge], or set bits=16")
    import bitsandbytes

    supported = getattr(bitsandbytes, "supported_torch_devices", {"cuda"})
    if device.type not in supported:
        raise UserError(
            f"bits={bits}: bitsandbytes cannot compute on device={device} (it can on {', '.join(sorted(supported))});"
            " set bits=16"
        )


def _fingerprint(folder: Path) -> str:
    """SHA-256 over small files, and over name, size and both ends of the weights: reading 140 GB takes minutes."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.jinja"), *folder.glob("*.safetensors")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_FINGERPRINT_BYTES))
            file.seek(max(size - _FINGERPRINT_BYTES, 0))
            digest.update(file.read())
    return digest.hexdigest()
