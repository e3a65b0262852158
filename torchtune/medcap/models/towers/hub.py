"""Files of a Hugging Face hub repository: a local copy, the hub's cache, or one line that says what to download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medcap.errors import UserError

LOCAL_MODELS = Path("models")


def local_copy(repository: str) -> Path | None:
    """``./models/<last part of the repository's name>``, if it is there."""
    folder = LOCAL_MODELS / repository.rsplit("/", 1)[-1]
    return folder if folder.is_dir() else None


def check_typed(repository: str, one_of: Sequence[str]) -> None:
    """See that a typed ``owner/name`` is not a folder that is missing beside others: ``results/mine``.

    Args:
        repository: what was typed; no folder has this name.
        one_of: files of which the hub's cache has one where the repository was fetched before.

    Raises:
        UserError: if there is a folder ``owner`` here, and no such repository in the cache.
    """
    owner = repository.partition("/")[0]
    if Path(owner).is_dir() and _fetch_cached(repository, [], one_of) is None:
        raise UserError(
            f"there is no folder {repository} beside others in {owner}/; if the hub's repository of this name is meant,"
            f" run `hf download {repository}` first"
        )


def fetch(repository: str, required: Sequence[str], one_of: Sequence[str] = (), optional: Sequence[str] = ()) -> Path:
    """Get files of a repository through the hub's cache; cached files are taken without asking the network.

    Args:
        repository: "owner/name".
        required: files that must be there.
        one_of: files of which the first one that exists is needed.
        optional: files that are taken if they exist.

    Returns:
        The cached folder that holds them.

    Raises:
        UserError: one line that says which files to download and where to put them.
    """
    from huggingface_hub.errors import HFValidationError

    try:
        cached = _fetch_cached(repository, required, one_of)
    except HFValidationError as error:
        raise UserError(
            f"{repository} is not a name of a hub repository; if a folder is meant, it is not there"
        ) from error
    return cached if cached is not None else _download(repository, required, one_of, optional)


def _fetch_cached(repository: str, required: Sequence[str], one_of: Sequence[str]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    def find(name: str) -> Path | None:
        found = try_to_load_from_cache(repository, name)
        return Path(found) if isinstance(found, str) else None

    found = [find(name) for name in required]
    if one_of:
        found.append(next(filter(None, map(find, one_of)), None))
    files = [file for file in found if file is not None]
    return files[0].parent if files and len(files) == len(found) else None


def _download(repository: str, required: Sequence[str], one_of: Sequence[str], optional: Sequence[str]) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def get(name: str) -> Path:
        _probe(repository, name)
        return Path(hf_hub_download(repository, name))

    def get_if_there(name: str) -> Path | None:
        try:
            return get(name)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return None

    try:
        paths = [get(name) for name in required]
        for name in optional:
            get_if_there(name)
        if one_of:
            chosen = next(filter(None, map(get_if_there, one_of)), None)
            if chosen is None:
                raise UserError(f"the hub repository {repository} holds none of {', '.join(one_of)}")
            paths.append(chosen)
        return paths[0].parent
    except UserError:
        raise
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise _unreachable(repository, required, one_of) from error
        raise UserError(f"the hub repository {repository} lacks one of {', '.join(required)}") from error
    except Exception as error:  # the hub's client lets errors of its HTTP library through, whichever that is
        raise _unreachable(repository, required, one_of) from error


def _probe(repository: str, name: str) -> None:
    """Fail at once without a network; hf_hub_download by itself would retry for half a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    get_hf_file_metadata(hf_hub_url(repository, name))


def _unreachable(repository: str, required: Sequence[str], one_of: Sequence[str]) -> UserError:
    wanted = ", ".join([*required, *([" or ".join(one_of)] if one_of else [])])
    folder = f"./models/{repository.rsplit('/', 1)[-1]}"
    return UserError(
        f"cannot get {wanted} of {repository} from huggingface.co (no network, offline mode, or no access): where "
        f"there is one, run `hf download {repository} --local-dir {folder}`, bring the folder here, set vision={folder}"
    )
