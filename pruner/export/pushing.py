"""Uploads a model folder to a hub, when told to and never otherwise."""

from pathlib import Path

from pruner.modeling.source import check_folder
from pruner.run_folder import MARK

ADAPTER = "adapter_config.json"


def push(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Upload a model folder, or an adapter, with its card.

    Args:
        folder: what `export` or a run wrote.
        repo_id: owner/name; made if it is not there.
        private: make it so that only its owner sees it; of no effect on one that is there.

    Returns:
        The address of the upload.

    Raises:
        ValueError: `folder` is no model, `repo_id` no name, nobody is logged in, or the hub refuses.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    folder = Path(folder)
    check(folder, repo_id)
    if get_token() is None:
        raise ValueError(
            "pushing needs a token of the hub that may write: `hf auth login`, or set HF_TOKEN; "
            "nothing was uploaded"
        )
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=f"Upload {folder.name}",
            ignore_patterns=[MARK],
        )
    except HfHubHTTPError as error:
        raise ValueError(f"the hub refused {repo_id}: {error}") from error
    return str(commit.commit_url)


def check(folder: Path, repo_id: str) -> None:
    """Raise ValueError unless `folder` holds a model or an adapter and `repo_id` reads owner/name."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; push one that `llm-prune export` or a run wrote")
    if not (folder / ADAPTER).is_file():
        check_folder(folder)
    owner, slash, name = repo_id.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise ValueError(f"expected a repository as OWNER/NAME, got {repo_id!r}")
