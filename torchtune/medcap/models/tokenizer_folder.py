"""Read what the files of a Hugging Face folder say of its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcap.errors import UserError
from medcap.models.chat_template import PLAIN
from medcap.models.foreign_files import check_file
from medcap.models.towers.tensor_files import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_JSON = "tokenizer.json"
_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
_PLAIN_NAME = "plain"


@dataclass(frozen=True)
class TokenizerFolder:
    """A folder with tokenizer.json, and what else describes the tokenizer.

    Attributes:
        folder: the folder.
        tokenizer: its tokenizer.json.
        names: the special tokens that have a role there (``bos_token``, ``eos_token``, ...) -> how they are written;
            empty for one that there is not.
        stop_ids: ids that end a text, of generation_config.json or config.json.
        num_rows: rows of the model's embedding table; None where config.json does not say.
    """

    folder: Path
    tokenizer: Tokenizer
    names: dict[str, str]
    stop_ids: list[int]
    num_rows: int | None

    @classmethod
    def open(cls, path: str) -> TokenizerFolder:
        """Open a folder.

        Args:
            path: the folder, or its tokenizer.json.

        Raises:
            UserError: if there is no tokenizer.json, or a file is damaged.
        """
        given = Path(path)
        file = given / TOKENIZER_JSON if given.is_dir() else given
        if not file.is_file():
            raise UserError(
                f"tokenizer.path={path}: there is no {TOKENIZER_JSON}; give the folder of a Hugging Face model that"
                " has one, or write it with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        tokenizer = _load(file)
        settings = {**_read(file.parent, "special_tokens_map.json"), **_read(file.parent, "tokenizer_config.json")}
        for token in _missing(settings, tokenizer):
            tokenizer.add_tokens([token])
        config = _read(file.parent, "config.json")
        config = {**config, **(config.get("text_config") or {})}
        generation = _read(file.parent, "generation_config.json")
        # Qwen says null for the token that begins a text, although its config.json has an id.
        names = {name: _text_of(settings[name]) for name in _NAMED if name in settings}
        for name, key in (("bos_token", "bos_token_id"), ("eos_token", "eos_token_id")):
            for token in _ids(generation.get(key)) or _ids(config.get(key)):
                if name not in names and (text := tokenizer.id_to_token(token)) is not None:
                    names[name] = text
        ends = _ids(generation.get("eos_token_id")) or _ids(config.get("eos_token_id"))
        stop = [token for token in ends if tokenizer.id_to_token(token) is not None]
        rows = config.get("vocab_size")
        return cls(file.parent, tokenizer, names, stop, rows if isinstance(rows, int) else None)

    def adds_bos(self) -> bool:
        """Return whether the tokenizer begins every text with the token for that."""
        name = self.names.get("bos_token")
        return bool(name) and self.tokenizer.encode("a").ids[0] == self.tokenizer.token_to_id(name)

    def chat_template(self, given: str | None) -> tuple[str, str]:
        """Find the chat template.

        Args:
            given: value of tokenizer.chat_template: a file, ``plain``, the template itself, or None for the folder's.

        Returns:
            The template, and what to call it in messages.

        Raises:
            UserError: if there is none.
        """
        if given == _PLAIN_NAME:
            return PLAIN, "tokenizer.chat_template=plain"
        if given is not None:
            if "{%" in given or "{{" in given:
                return given, "tokenizer.chat_template"
            return _template_file(Path(given)), f"tokenizer.chat_template={given}"
        found = find_chat_template(self.folder)
        if found is not None:
            return found
        raise UserError(
            f"tokenizer.path={self.folder} brings no chat template (chat_template.jinja, or chat_template in"
            " tokenizer_config.json): give a file in tokenizer.chat_template, or tokenizer.chat_template=plain for a"
            " language model that was trained on plain text"
        )


def find_chat_template(folder: Path) -> tuple[str, str] | None:
    """Find the chat template of a folder.

    Args:
        folder: folder of a Hugging Face model.

    Returns:
        The template, and the file that holds it; None where the folder has none.

    Raises:
        UserError: if a file is damaged.
    """
    file = folder / "chat_template.jinja"
    if file.is_file():
        return _template_file(file), str(file)
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = _read(folder, name).get("chat_template")
        if isinstance(found, list):  # named ones
            found = {entry.get("name"): entry.get("template") for entry in found}.get("default")
        if isinstance(found, str):
            return found, str(folder / name)
    return None


def _load(file: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        check_file(file, text=True)
    except UserError as error:
        raise UserError(f"tokenizer.path={error}") from None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more exact
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"tokenizer.path={file} cannot be read: {reason}; download it again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name) if (folder / name).is_file() else {}


def _template_file(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"tokenizer.chat_template={file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"tokenizer.chat_template={file} is not UTF-8 text: give a Jinja2 chat template") from error


def _missing(settings: Mapping[str, Any], tokenizer: Tokenizer) -> list[Any]:
    """Return the tokens of tokenizer_config.json that tokenizer.json lacks, as transformers adds them."""
    from tokenizers import AddedToken

    entries = settings.get("added_tokens_decoder") or {}
    found = []
    for _, entry in sorted(entries.items(), key=lambda item: int(item[0])):
        if tokenizer.token_to_id(entry["content"]) is None:
            flags = {name: entry[name] for name in ("single_word", "lstrip", "rstrip", "normalized") if name in entry}
            found.append(AddedToken(entry["content"], special=bool(entry.get("special")), **flags))
    return found


def _text_of(token: Any) -> str:
    """Return how a token is written: a file gives it as text, as a table with its flags, or as null for none."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [token for token in values if isinstance(token, int) and token >= 0]
