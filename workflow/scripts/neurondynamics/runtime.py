"""What every script needs around its work: a log, progress, sizes and digests of files.

Only the standard library and tqdm are imported here. No result may depend on this module: a change
of it reruns nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from tqdm import tqdm

logger = logging.getLogger(__name__)

T = TypeVar("T")

SECRET_NAME = re.compile(r"(^|_)(TOKEN|KEY|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
CREDENTIALS = re.compile(r"(?<=://)[^\s/]+@")  # user:password@ in a URL


def start_log(path: str, mode: str = "w") -> None:
    """Send log records, warnings and the traceback of a failure to `path` and to stderr.

    Snakemake does not capture what a script prints, so a script calls this before anything else.
    A process that a script starts adds to the same log with the mode "a".
    Secrets in the environment and in URLs are left out.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handlers = [logging.FileHandler(path, mode=mode, encoding="utf-8"), logging.StreamHandler()]
    formatter = RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    logging.captureWarnings(True)
    for chatty in ("httpx", "httpx2", "urllib3", "filelock"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

    def log_exception(kind, error, traceback):
        logging.getLogger("failed").error("%s", error, exc_info=(kind, error, traceback))

    sys.excepthook = log_exception
    logger.info("Python %s in %s", sys.version.split()[0], os.getcwd())


class RedactingFormatter(logging.Formatter):
    """Formats records and tracebacks without the secrets that may stand in them."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def redact(text: str) -> str:
    """Return a text with *** for secrets.

    Those are the values of environment variables that are named as a token, key, secret or
    password, and the credentials in URLs.
    """
    secrets = {
        value
        for name, value in os.environ.items()
        if SECRET_NAME.search(name) and len(value) >= 4  # a shorter one is no secret
    }
    spellings = {form for value in secrets for form in (value, quote(value, safe=""))}
    for spelling in sorted(spellings, key=len, reverse=True):  # one may be part of another
        text = text.replace(spelling, "***")
    return CREDENTIALS.sub("***@", text)


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` under a progress bar, and log a line at least every 30 s."""
    bar = tqdm(items, desc=description, total=total, dynamic_ncols=True, mininterval=0.5)
    last = time.monotonic()
    for number, item in enumerate(bar, start=1):  # bar.n is stale between redraws
        yield item
        if time.monotonic() - last > 30:
            last = time.monotonic()
            logger.info("%s: %d of %s", description, number, bar.total or "?")
    logger.info("%s: done, %d in %.0f s", description, bar.n, bar.format_dict["elapsed"])


def human_size(size: int) -> str:
    """Write a number of bytes for a person: `human_size(3 * 2**20) == "3.0 MiB"`."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.1f} {unit}" if unit != "B" else f"{size} B"
        amount /= 1024
    return f"{amount:.1f} TiB"


def file_digest(path: str | Path) -> str:
    """Return the sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
