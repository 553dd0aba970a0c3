"""Downloading files of a repository on the Hugging Face hub."""

from __future__ import annotations

import errno
import glob
import logging
import os
import re
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from neurondynamics.fetching.retries import Interruption, retried

logger = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")
ADVICE = "Check the connection, and HF_HUB_OFFLINE and HF_ENDPOINT if they are set."


def download_snapshot(
    repository: str,
    revision: str,
    repo_type: str,
    paths: list[str] | None = None,
    patterns: tuple[str, ...] = (),
) -> Path:
    """Bring files of a repository into Hugging Face's cache; return the folder they lie in there.

    What the cache holds already is not downloaded again, and needs no connection at all where the
    revision is a commit. The cache is where HF_HOME says.

    Parameters
    ----------
    repository, revision : `owner/name`, and a commit; or a branch or tag, whose commit is logged.
    repo_type : "model" or "dataset".
    paths : the files; without them those at the top that match `patterns`.

    Raises
    ------
    ValueError : if the hub has no such repository or revision, refuses access with the token in
        HF_TOKEN or without one, or fails three times.
    """
    wanted = list(patterns) if paths is None else [glob.escape(path) for path in paths]
    ignored = ["*/*"] if paths is None else None
    shown = f"{repo_type} {repository} at {revision}"

    def attempt() -> str:
        try:
            return snapshot_download(
                repository,
                repo_type=repo_type,
                revision=revision,
                allow_patterns=wanted,
                ignore_patterns=ignored,
                # never one that a user once stored: what a study reads must not depend on it
                token=os.environ.get("HF_TOKEN") or False,
            )
        except Exception as error:
            reason = _refusal(error, repository, revision, repo_type)
            if reason:
                raise ValueError(reason) from error
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise Interruption(f"{type(error).__name__}: {error}") from error

    logger.info("Bringing %s from %s", shown, constants.ENDPOINT)
    folder = Path(retried(attempt, f"The {shown}", ADVICE))
    if not COMMIT.fullmatch(revision):
        logger.warning(
            "%s may change: it is commit %s now. Write that as `revision`, so that the study stays "
            "what it is.",
            *(shown, folder.name),
        )
    return folder


def _refusal(error: Exception, repository: str, revision: str, repo_type: str) -> str | None:
    """Return what to tell of an error that no further attempt would change."""
    kind = "datasets/" if repo_type == "dataset" else ""
    address = f"{constants.ENDPOINT}/{kind}{repository}"
    given = "HF_TOKEN is of an account" if os.environ.get("HF_TOKEN") else "HF_TOKEN is not set"
    if isinstance(error, GatedRepoError):
        lack = f"{given} without access" if "account" in given else given
        return (
            f"{repository} is gated, and {lack}: accept its terms at {address}, and put a token of "
            "that account into the environment as HF_TOKEN"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repository} has no revision {revision}: `git ls-remote {address}` lists them"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{address} does not exist, or is private and {given}"
            f"{' without access' if 'account' in given else ''}: check `hub`, and HF_TOKEN in the "
            "environment"
        )
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"{address}: the hub refuses the token in HF_TOKEN ({error.response.status_code})"
    return None
