"""What pushing and pulling share: names of repositories, files of a model, the Hub's errors."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from itera_lite.errors import HubError, IteraError, MissingExtra, OutputError, UsageError

# The files that a repository of a model is made of. Never among them: training_state, which is of
# use to nobody else and holds the whole optimizer, and pickles, which can run code.
_WEIGHTS = r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|[^/]+\.gguf(\.gz)?"
_MODEL = re.compile(
    rf"{_WEIGHTS}|(config|generation_config|tokenizer|tokenizer_config|special_tokens_map)\.json"
    r"|README\.md|LICENSE[^/]*|\.eval_results/[\w.-]+\.yaml"
)
WEIGHTS = re.compile(_WEIGHTS)
# Errors of writing, some of which come without the file's name
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
LOGIN = "Set HF_TOKEN, or run: hf auth login"


def is_of_model(path: str) -> bool:
    """Whether a file of a folder or repository belongs to a model."""
    return _MODEL.fullmatch(path) is not None


def require_package(purpose: str) -> None:
    """Raises `MissingExtra` where huggingface_hub isn't installed."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "hub", purpose) from error


def repository_of(given: str) -> tuple[str, str | None]:
    """``OWNER/NAME`` and the revision of ``OWNER/NAME[:revision]``.

    Raises:
        UsageError: it has another form, or characters that the Hub doesn't allow.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    name, colon, revision = given.partition(":")
    owner, slash, model = name.partition("/")
    problem = ""
    if not (owner and slash and model) or (colon and not revision):
        problem = "it has another form"
    else:
        try:
            validate_repo_id(name)
        except HFValidationError:
            problem = (
                "the Hub allows letters, digits, '-', '_' and '.', no '-' or '.' at either end, no "
                "'--' or '..', and 96 characters"
            )
    if problem:
        raise UsageError(
            f"'{given}': expected a model on the Hub, OWNER/NAME or OWNER/NAME:revision; {problem}"
        )
    return name, revision or None


@contextmanager
def hub_errors(repository: str, revision: str | None = None) -> Iterator[None]:
    """Turns what huggingface_hub raises in the block into a `HubError` that names what to do.

    Errors of this machine, such as a full disk, become an `OutputError`.
    """
    from huggingface_hub import errors

    try:
        yield
    except IteraError:
        raise
    except errors.RevisionNotFoundError:
        raise HubError(
            f"'{repository}' has no revision '{revision}' on the Hub: expected a branch, a tag or "
            "a commit"
        ) from None
    except errors.GatedRepoError:
        raise HubError(
            f"'{repository}' is gated: ask for access on its page on the Hub. {LOGIN}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"there is no model '{repository}' on the Hub, or it is private and this token may not "
            f"see it. Look at the spelling. For a private one: {LOGIN}"
        ) from None
    except errors.HfHubHTTPError as error:
        raise HubError(_refusal(repository, error)) from error
    except errors.OfflineModeIsEnabled:
        raise HubError("HF_HUB_OFFLINE is set: unset it to reach the Hub") from None
    except OSError as error:
        if error.errno is not None and (error.filename is not None or error.errno in _OF_THE_DISK):
            where = f"'{error.filename}'" if error.filename else "a file can't be written"
            raise OutputError(f"{where}: {error.strerror}") from error
        raise HubError(_unreachable(repository, error)) from error
    except Exception as error:  # of the network: the client passes on those of its own library
        raise HubError(_unreachable(repository, error)) from error


def _refusal(repository: str, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", 0)
    lines = (getattr(error, "server_message", None) or str(error)).strip().splitlines()
    reason = lines[0] if lines else f"status {status}"
    if status == 401:
        return f"the Hub doesn't accept the token ({reason}). {LOGIN}"
    if status == 403:
        return (
            f"this token may not do that with '{repository}' ({reason}). Take one with the right "
            f"to write, or an owner that it belongs to. {LOGIN}"
        )
    if status >= 500 or status == 429:
        return f"the Hub can't answer now ({reason}): try again later"
    return f"the Hub refused '{repository}' ({reason})"


def _unreachable(repository: str, error: BaseException) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"the Hub can't be reached for '{repository}' ({reason}). Look at the network; run the "
        "same command again to go on"
    )
