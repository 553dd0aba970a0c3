"""What every script needs around its work: a log, progress, and a digest of the code it runs.

Only the standard library and tqdm are imported here: rule files import this module, and every
cluster job parses them again.
"""

from __future__ import annotations

import ast
import functools
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

PACKAGE = "neurondynamics"
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


def code_digest(script: str | Path) -> str:
    """Digest a script and the library modules it imports, directly or through one another.

    Comments, docstrings and formatting do not count: only a change of code changes the digest.
    This module is left out, since no result depends on it.
    """
    script = Path(script).resolve()
    modules = _modules_of(script)
    modules.pop(Path(__file__).resolve(), None)
    digest = hashlib.sha256()
    for module, code in sorted(modules.items()):
        digest.update(f"{module.relative_to(script.parent)}\n{code}\n".encode())
    return digest.hexdigest()[:16]


def _modules_of(script: Path) -> dict[Path, str]:
    """Return a script and all library modules that it imports, with their code."""
    modules: dict[Path, str] = {}
    waiting = {script}
    while waiting:
        module = waiting.pop()
        if module not in modules:
            imported, modules[module] = _read_code(module.read_text(encoding="utf-8"))
            waiting |= _module_files(imported, script.parent)
    return modules


@functools.cache  # scripts share modules, and every cluster job digests all scripts
def _read_code(text: str) -> tuple[frozenset[str], str]:
    """Return the names of what code may import of this package, and the code without docstrings."""
    tree = ast.parse(text)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return frozenset(name for name in names if name.split(".")[0] == PACKAGE), ast.unparse(tree)


def _module_files(names: Iterable[str], root: Path) -> set[Path]:
    """Return the files of the modules among some names of this package."""
    found = set()
    for name in names:
        base = root.joinpath(*name.split("."))
        candidates = (base.with_suffix(".py"), base / "__init__.py")
        found |= {candidate for candidate in candidates if candidate.is_file()}
    return found
