"""Models on the Hugging Face hub: which strings name one, its files in the cache, uploads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from merge_optuna.checkpoints._known_files import PIPELINE, inside
from merge_optuna.checkpoints._target import MANIFEST
from merge_optuna.errors import CheckpointError, HubError

# Patterns are matched against the whole path inside the repository; * also matches slashes.
_TEXTS = ("*.json", "*.txt", "*.jinja", "*.py", "*.model", "*.tiktoken", "README.md")
_SAFETENSORS = ("model*.safetensors", "diffusion_pytorch_model*.safetensors", "adapter_*")
_BINS = ("pytorch_model*.bin", "diffusion_pytorch_model*.bin")


def is_hub_id(ref: str) -> bool:
    """Whether ``ref`` may name a model on the hub: ``name`` or ``organisation/name``.

    Relative paths that are written as such (``./base``) are none.
    """
    if ref.startswith(("/", ".", "~")):
        return False  # without importing the client
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(ref)
    except HFValidationError:
        return False
    return True


def snapshot(repo: str, revision: str | None = None, *, part: str | None = None) -> Path:
    """The folder of a model in the local cache; its name is the commit hash.

    Files that are not there yet are downloaded, unless ``HF_HUB_OFFLINE`` is set: configuration,
    tokenizer, processor and the safetensors files, or the ``.bin`` files if there are none.

    Args:
        repo: ``organisation/name``.
        revision: Branch, tag or commit hash; the main branch when omitted.
        part: Of a pipeline, weights of this subfolder only; of no subfolder when omitted.

    Raises:
        CheckpointError: If there is no such model or revision, it is gated, or it is not in the
            cache while the hub cannot be reached.
    """
    inside = "" if part is None else f"{part}/"
    folder = _download(repo, revision, [*_TEXTS, *(inside + p for p in _SAFETENSORS)])
    if inside and not (folder / PIPELINE).is_file():
        return snapshot(repo, revision)  # a module of a model
    if not any((folder / inside).glob("*.safetensors")):
        folder = _download(repo, revision, [*_TEXTS, *(inside + p for p in _BINS)])
    return folder


def whole_snapshot(repo: str, revision: str | None) -> Path:
    """As :func:`snapshot`, with the weights of every subfolder: all parts of a pipeline."""
    folder = _download(repo, revision, [*_TEXTS, "*/*.safetensors"])
    if not any(folder.glob("*/*.safetensors")):
        folder = _download(repo, revision, [*_TEXTS, "*/*.bin"])
    return folder


def _download(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except IncompleteSnapshotError as error:
        # Offline, and e.g. the tokenizer was never downloaded: the reader asks for what it needs.
        return Path(error.snapshot_path)
    except http_errors() as error:
        raise CheckpointError(_explanation(error, repo, revision)) from error


def http_errors() -> tuple[type[Exception], ...]:
    """What the client raises when a file or the hub is missing, refuses or breaks off.

    Its own errors derive from one of its HTTP library, which is another in other versions.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return OSError, *(c for c in HfHubHTTPError.__mro__ if c.__name__ == "HTTPError")


def _explanation(error: Exception, repo: str, revision: str | None) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return (
            f"The model {repo!r} is gated. Accept its terms at {constants.ENDPOINT}/{repo} and "
            "log in: hf auth login, or set HF_TOKEN."
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"The model {repo!r} has no revision {revision!r}. Use a branch, a tag or a commit "
            f"hash of {constants.ENDPOINT}/{repo}."
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{repo!r} is neither a folder here nor a model at {constants.ENDPOINT}. Check the "
            "path or the name; for a private model log in: hf auth login, or set HF_TOKEN."
        )
    if isinstance(error, LocalEntryNotFoundError):
        return _explain_cache(repo, revision)
    return f"The model {repo!r} could not be downloaded: {error!r}. Try again."


def _explain_cache(repo: str, revision: str | None) -> str:
    from huggingface_hub import constants, is_offline_mode
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE)
    refs = cache / repo_folder_name(repo_id=repo, repo_type="model") / "refs"
    known = sorted(str(p.relative_to(refs)) for p in refs.rglob("*") if p.is_file())
    why = "HF_HUB_OFFLINE is set" if is_offline_mode() else f"{constants.ENDPOINT} does not answer"
    if known:
        return (
            f"The revision {revision or 'main'!r} of {repo!r} is not in the cache {cache}, only "
            f"{', '.join(known)}, and {why}. Use one of these, or download it first."
        )
    return (
        f"{repo!r} is neither a folder here nor a model in the cache {cache}, and {why}. Check "
        f"the path or the name, or download it first: hf download {repo}."
    )


# -- uploads -------------------------------------------------------------------------------------


def push(
    folder: str | Path, repo: str, *, private: bool | None = None, token: str | None = None
) -> str:
    """Uploads a folder, e.g. one that :func:`mo.write` wrote, as one commit.

    Args:
        folder: Everything in it is uploaded, but for the list of what was written there.
        repo: ``name`` or ``organisation/name``; created if it does not exist.
        private: Whether a new repository can only be seen by you and the organisation; the
            organisation's default when omitted.
        token: Of your account; the one you are logged in with when omitted.

    Returns:
        Address of the commit.

    Raises:
        HubError: If you cannot write there, or the hub does not answer.
        CheckpointError: If a link leads out of the folder.
    """
    from huggingface_hub import HfApi

    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise HubError(f"There is no folder {str(folder)!r} to upload.")
    for path in folder.rglob("*"):
        if path.is_symlink() and path.is_file():
            inside(path, folder)
    check_push(repo, token=token)
    api = HfApi(token=token)
    try:
        place = api.create_repo(repo, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=place,
            folder_path=folder,
            commit_message="Upload merged model",
            ignore_patterns=[MANIFEST],
        )
    except http_errors() as error:
        raise HubError(
            f"{str(folder)!r} could not be uploaded to {repo!r}: {error!r}. Try again: "
            f"mo.push({str(folder)!r}, {repo!r})."
        ) from error
    return str(commit.commit_url)


def check_push(repo: str, *, token: str | None = None) -> None:
    """Asks the hub whether :func:`push` can work, before hours of merging.

    Raises:
        HubError: If the name is not one, the hub cannot be reached, you are not logged in, or
            ``repo`` belongs to somebody else.
    """
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if not is_hub_id(repo):
        raise HubError(f"{repo!r} is no name on the hub. Use name or organisation/name.")
    if is_offline_mode():
        raise HubError(f"Nothing can be pushed to {repo!r}: HF_HUB_OFFLINE is set. Unset it.")
    try:
        me = HfApi(token=token).whoami()
    except LocalTokenNotFoundError as error:
        raise HubError(
            f"You are not logged in, so nothing can be pushed to {repo!r}. Log in with a token "
            "that may write: hf auth login, or set HF_TOKEN."
        ) from error
    except HfHubHTTPError as error:
        raise HubError(f"The hub refuses your token: {error}") from error
    except http_errors() as error:
        raise HubError(f"The hub cannot be reached to push to {repo!r}: {error}") from error
    places = [me["name"], *(org["name"] for org in me.get("orgs", ()))]
    namespace = repo.rpartition("/")[0]
    if namespace and namespace not in places:
        raise HubError(
            f"You are logged in as {me['name']!r} and cannot push to {repo!r}. You can push to "
            f"{', '.join(places)}."
        )
