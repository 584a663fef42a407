"""`--push`: uploads a published folder to the Hugging Face hub with the user's own login. HF_ENDPOINT and HF_TOKEN are honoured."""

import os
from pathlib import Path

from glassworks.errors import ConfigError, FetchError
from glassworks.publishing.record import FOREIGN, RECORD, read_record

LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Upload a published folder as one commit; returns its address. Files of an earlier publication that are not in this one are removed.

    Raises `ConfigError` for a name that is none or a repository with foreign files, and `FetchError` if the hub refuses or does not answer.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    record = read_record(folder)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="glassworks")
    where = f"--push {repository}"
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        files = [name for name in api.list_repo_files(repository) if not name.startswith(FOREIGN)]
        if files and RECORD not in files:
            raise ConfigError(f"{where}: holds files of something else, such as {files[0]}; choose another repository")
        done = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"{record.experiment}, {record.manifest[:12]}",
            delete_patterns="*" if files else None,
        )
    except HFValidationError:
        raise ConfigError(f"{where}: not the name of a repository; write OWNER/NAME") from None
    except LocalTokenNotFoundError:
        raise FetchError(f"{where}: no login; {LOGIN}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        remedy = LOGIN if status in (401, 403) else f"{folder} is whole, so the same command tries it again"
        raise FetchError(f"{where}: the hub answers {status}; {remedy}") from None
    except (httpx2.HTTPError, OSError) as error:
        raise FetchError(
            f"{where}: the hub cannot be reached ({_one_line(error)}); try the same command again"
        ) from None
    return str(done.commit_url)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
