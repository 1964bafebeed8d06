"""A hub model as a folder of the Hugging Face cache, fetched if need be, with one clear error when it cannot be had.

transformers would retry for most of a minute without a network and report with three chained tracebacks, so the hub is
asked one question first; the answer also shows, before any download, whether there are safe weights.
"""

from __future__ import annotations

from pathlib import Path

from interp.errors import InputError
from interp.foreign import said

__all__ = ["hub_folder"]

# What a causal language model and its tokenizer need; top level only, no second copies in other formats.
_WANTED = ("*.json", "*.jinja", "*.txt", "*.model", "model.safetensors", "model-*-of-*.safetensors")
_SECONDS = 10.0


def hub_folder(name: str, revision: str | None) -> tuple[Path, str]:
    """Folder and commit of a hub model.

    >>> hub_folder("Qwen/Qwen3-0.6B", None)[0].is_dir()  # doctest: +SKIP
    True
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import httpx

    operation = f"load {name} from the Hugging Face hub"
    try:
        info = HfApi().model_info(name, revision=revision, timeout=_SECONDS)
        files = [sibling.rfilename for sibling in info.siblings or [] if "/" not in sibling.rfilename]
        if not any(file.endswith(".safetensors") for file in files):
            raise InputError(
                operation,
                expected="weights as .safetensors",
                received="a repository without them",
                remedy="Pickled weights are not loaded here; look for a converted revision (revision='refs/pr/...').",
            )
        # By the revision's name, not the commit: only then does the cache find it again by that name without a network.
        folder = snapshot_download(name, revision=revision, allow_patterns=list(_WANTED), ignore_patterns=["*/*"])
        return Path(folder), Path(folder).name
    except GatedRepoError as error:
        raise InputError(
            operation,
            expected="access to it",
            received="a gated model",
            remedy="Accept its terms on the hub, then set HF_TOKEN.",
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(
            operation, expected="an existing revision", received=repr(revision), remedy="Check its branches and tags."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            operation,
            expected="an existing model (and no folder of this name was found here)",
            received=repr(name),
            remedy="Check the spelling, or set HF_TOKEN if it is private.",
        ) from error
    # Connection errors are OSError or the HTTP library's own; HfHubHTTPError (server errors) is both.
    except (OSError, httpx.HTTPError) as error:
        try:
            # Out of reach, but perhaps fetched earlier.
            folder = snapshot_download(name, revision=revision, local_files_only=True)
        except LocalEntryNotFoundError:
            reason = (
                "the hub answered with an error" if isinstance(error, HfHubHTTPError) else "the hub is out of reach"
            )
            raise InputError(
                operation,
                expected="the model in the local cache, or a hub that answers",
                received=f"neither: {reason} ({said(error)})",
                remedy=f"Connect to the network, or pass a local folder (no folder {name!r} was found here).",
            ) from error
        return Path(folder), Path(folder).name
