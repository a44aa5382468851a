"""Uploading an export to the Hugging Face hub, with the user's own login."""

from pathlib import Path

from sae_lightning.core import UserError
from sae_lightning.tokens.hub import hub_offline, hub_reachable


def check_hub(repo: str) -> None:
    """Raise UserError where an upload to ``repo`` can't succeed: asked before anything is written."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UserError(f"push={repo}: is no name of a repository; give it as USER/NAME") from None
    if hub_offline():
        raise UserError(f"push={repo}: the hub is switched off (HF_HUB_OFFLINE); unset that")
    if not get_token():
        raise UserError(f"push={repo}: no login; run `hf auth login` once, or set HF_TOKEN")
    if not hub_reachable():
        raise UserError(f"push={repo}: the hub does not answer; check the network, or leave push out")


def push(folder: Path, repo: str, *, private: bool, message: str) -> str:
    """Upload every file of ``folder`` and return the repository's address; it is made where it does not exist.

    private: of a repository that is made; one that is there stays as it is. Raises UserError for a login that may not
    write there, and for a network that breaks off. The token appears nowhere.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    api, token = HfApi(), get_token()
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        # The name as the hub gave it: a bare NAME is one of the user's own.
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message=message)
        return str(url)
    except RepositoryNotFoundError:
        raise UserError(f"push={repo}: no such repository, or this login may not see it; check the name") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(
                f"push={repo}: the hub refused this login ({status}); use a token with write access to it"
            ) from None
        raise UserError(f"push={repo}: the hub answered {status} ({_first_line(error, token)}); try again") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"push={repo}: the upload broke off ({_first_line(error, token)}); try again") from None


def _first_line(error: Exception, token: str | None) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.replace(token, "***") if token else line
