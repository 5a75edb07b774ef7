"""Uploads a written checkpoint to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from merge_optuna.checkpoints._hub import http_errors, is_hub_id
from merge_optuna.checkpoints._known_files import inside
from merge_optuna.checkpoints._target import MANIFEST
from merge_optuna.errors import HubError


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
