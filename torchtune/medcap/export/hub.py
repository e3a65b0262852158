"""An export's way to the Hugging Face hub: nothing but what belongs to a model is uploaded."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path

from medcap.errors import UserError
from medcap.export.model_card import CARD
from medcap.legacy.meta_model import FILE as META_MODEL

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".md", ".txt", ".png", ".jpg")
_NAMES = ("LICENSE", "NOTICE")
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")


def push_folder(folder: Path, repository: str, private: bool = False, revision: str | None = None) -> str:
    """Upload an exported folder with the user's own login (``hf auth login``, or HF_TOKEN).

    Args:
        folder: folder in the form that ``medcap export`` writes.
        repository: ``owner/name``; made if it is not there.
        private: make the repository so, and see that one that is there already is.
        revision: a branch, made if it is not there; None is the main one.

    Returns:
        The address of the uploaded folder.

    Raises:
        UserError: if the folder is none of a model or holds what does not belong, there is no login or no network, or
            the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    files = [str(path.relative_to(folder)) for path in check_folder(folder)]
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"{repository} is not a name on the hub: write OWNER/NAME")
    api = HfApi(library_name="medcap")
    try:
        # Before anything is made: without a login the hub would only say that there is no such repository.
        api.whoami()
        url = str(api.create_repo(repository, private=private or None, exist_ok=True))
        # [Contract] the hub leaves a repository that is there already as public as it was.
        if private and not api.repo_info(repository).private:
            raise UserError(f"{url} exists and is public: make it private there, or leave --private out")
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        message = f"{folder.absolute().name}, exported by medcap"
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            # Upload what was checked, not what may have come since.
            allow_patterns=[glob.escape(name) for name in files],
        )
    except LocalTokenNotFoundError as error:
        raise UserError("you are not logged in to the hub: run `hf auth login` first") from error
    except OfflineModeIsEnabled as error:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it") from error
    except HfHubHTTPError as error:
        raise UserError(f"the hub refused {repository}: {_reason(error)}") from error
    except UserError:
        raise
    except Exception as error:  # the hub's client lets errors of its HTTP library through, whichever that is
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{repository} cannot be uploaded ({reason}): check the network, then run it again") from error
    return url if revision is None else f"{url}/tree/{revision}"


def check_folder(folder: Path) -> list[Path]:
    """Check that a folder is an export and holds nothing else.

    Args:
        folder: folder to upload.

    Returns:
        Its files.

    Raises:
        UserError: naming the first file that does not belong.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; medcap export writes one")
    if not (folder / CARD).is_file():
        raise UserError(f"{folder} holds no model card ({CARD}): medcap export writes one")
    files = list(_files(folder))
    for path in files:
        reason = _strange(path, folder)
        if reason:
            raise UserError(f"{path} {reason}, so nothing is uploaded: take it out of the folder")
    return files


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        # A link's folder is not walked through: what it leads to is outside.
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        else:
            yield path


def _strange(path: Path, folder: Path) -> str | None:
    """Why a file does not belong, None if it does."""
    inside = path.relative_to(folder)
    if any(part.startswith(".") for part in inside.parts):
        return "is hidden"
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        return "is a link that leads out of the folder"
    if path.suffix in _PICKLES:
        return None if str(inside) == META_MODEL else "is a pickle, which can run code"
    if path.suffix not in _SUFFIXES and path.name not in _NAMES:
        return "belongs to no model"
    return None


def _reason(error: Exception) -> str:
    message = getattr(error, "server_message", None) or str(error)
    lines = [line.strip() for line in str(message).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
