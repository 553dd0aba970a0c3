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
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, quote, unquote

from tqdm import tqdm

logger = logging.getLogger(__name__)

T = TypeVar("T")

SECRET_NAME = re.compile(
    r"((^|_)(KEY|PAT|PASS|AUTH|BEARER|COOKIE|CREDENTIAL)S?|_PWD|(TOKEN|SECRET|PASSWORD)S?|PASSWD"
    r"|APIKEY)$",
    re.IGNORECASE,
)
URL = re.compile(r"\b\w[\w+.-]*://[^\s'\"<>]+")
WORDS = ("true", "false", "none", "null", "True", "False", "None")
TOLD = (ValueError, OSError, MemoryError)  # whose messages say all that there is to say
FAILED = "failed"  # the logger of what ends a job
TRACEBACK = re.compile(r"\n(Traceback \(most recent call last\)|  \+ Exception Group)")


def start_log(path: str, mode: str = "w") -> None:
    """Send log records and warnings to `path` and to stderr, and a failure to `path`.

    Snakemake does not capture what a script prints, so a script calls this before anything else.
    A process that a script starts adds to the same log with the mode "a". Of a failure, the
    terminal gets the message from the log (see `failure_in`), once and without its traceback.
    Secrets in the environment and in URLs are left out. Threads that wait do so asleep (see
    `rest_while_waiting`).
    """
    rest_while_waiting()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handlers = [logging.FileHandler(path, mode=mode, encoding="utf-8"), logging.StreamHandler()]
    handlers[1].addFilter(lambda record: record.name != FAILED)
    formatter = RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    logging.captureWarnings(True)
    for chatty in ("httpx", "httpx2", "urllib3", "filelock"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

    def log_exception(kind, error, traceback):
        told = str(error) if issubclass(kind, TOLD) and str(error) else f"{kind.__name__}: {error}"
        logging.getLogger(FAILED).error("%s", told, exc_info=(kind, error, traceback))

    sys.excepthook = log_exception
    logger.info("Python %s in %s", sys.version.split()[0], os.getcwd())


def rest_while_waiting() -> None:
    """Let threads of libraries sleep while they wait for each other, and be as many as the job has.

    GNU's OpenMP, which torch uses, has threads spin while they wait: beside other jobs on the same
    cores these then wait for a thread that waits (tests/benchmarks/threads.py). To be called before
    such a library is loaded. Snakemake sets the threads of OpenMP and of linear algebra, and not
    those of tokenizers. What the environment says stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "OMP_NUM_THREADS" in os.environ:
        os.environ.setdefault("RAYON_NUM_THREADS", os.environ["OMP_NUM_THREADS"])


def failure_in(path: str | Path) -> str | None:
    """Return the message of the failure that a log ends with; None where there is none to read."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    _, found, failure = text.rpartition(f" ERROR {FAILED}: ")
    return TRACEBACK.split(failure, maxsplit=1)[0].strip() if found else None


class RedactingFormatter(logging.Formatter):
    """Formats records and tracebacks without the secrets that may stand in them."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def redact(text: str) -> str:
    """Return a text with *** for secrets, and with URLs as `shown_url` writes them.

    Secrets are the values of environment variables that are named as a token, key, secret or
    password, and the credentials in those that hold a URL, such as that of a proxy.
    """
    secrets = set(_SECRETS)
    for name, value in os.environ.items():
        if SECRET_NAME.search(name):
            secrets.add(value)
        elif name.lower().endswith("_proxy") and "@" in value:
            secrets.add(value.partition("://")[2].rpartition("@")[0] or value.rpartition("@")[0])
    # a shorter one is no secret, and neither is a word or what lies on the disk for all to see
    long = {one for one in secrets if len(one) >= 4 and one not in WORDS and not _is_path(one)}
    spellings = {form for value in long for form in (value, quote(value, safe=""))}
    for spelling in sorted(spellings, key=len, reverse=True):  # one may be part of another
        text = text.replace(spelling, "***")
    return URL.sub(lambda found: shown_url(found[0]), text)


def _is_path(text: str) -> bool:
    with suppress(OSError, ValueError):  # too long, or with a zero
        return os.path.isabs(text) and os.path.exists(text)
    return False


_SECRETS: set[str] = set()  # of the URLs that this process was given


def keep_secret(url: str) -> str:
    """Return a URL as it may be shown; `redact` leaves its secrets out from now on."""
    _, credentials, _, query = _parts(url)
    values = (value for _, value in parse_qsl(query) if len(value) >= 8)  # others may be words
    _SECRETS.update((unquote(credentials), *credentials.split(":", 1)[1:], query, *values))
    return shown_url(url)


def shown_url(url: str) -> str:
    """Return a URL without what may be a key: its user and password, its query and fragment."""
    scheme, credentials, place, _ = _parts(url)
    return scheme + ("***@" if credentials else "") + place


def _parts(url: str) -> tuple[str, str, str, str]:
    """Split any text with :// in it: up to there, credentials, host and path, query and fragment.

    By hand, since urllib refuses some that a person may write, with the text in its message.
    """
    scheme, mark, rest = url.partition("://")
    address, query = re.fullmatch(r"([^?#]*)[?#]?(.*)", rest, re.DOTALL).groups()
    host, slash, path = address.partition("/")
    credentials, _, host = host.rpartition("@")
    return scheme + mark, credentials, host + slash + path, query


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
