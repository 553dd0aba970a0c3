"""Downloading one file from a URL, whose interruptions cost only what is missing."""

from __future__ import annotations

import base64
import logging
import math
import time
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from neurondynamics.data.files import require_space
from neurondynamics.fetching.retries import Interruption, retried
from neurondynamics.runtime import human_size, keep_secret, progress

logger = logging.getLogger(__name__)

TIMEOUT = 60.0  # seconds without an answer or a byte
PIECE = 2**20  # bytes
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers of a server that may change


def download(url: str, path: Path) -> None:
    """Download a file to `path`, in up to three attempts, each going on where the last stopped.

    A user and password in the URL are sent to its server, and to no other that it leads to. Raises
    ValueError for a URL without a valid host or port, and with the server's answer or what
    interrupted the last attempt if that fails, and OSError if the disk has no room.
    """
    shown = keep_secret(url)
    request = _request(url, shown)
    started = time.monotonic()
    logger.info("Downloading %s", shown)
    retried(lambda: _attempt(request, shown, path), shown, "Check the address and the connection.")
    size, seconds = human_size(path.stat().st_size), time.monotonic() - started
    logger.info("Downloaded %s, %s in %.0f s", path.name, size, seconds)


def _request(url: str, shown: str) -> Request:
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        if parts.port == 0 or not parts.hostname:
            raise ValueError(host)
    except ValueError as error:  # which quotes what may be a password
        raise ValueError(f"{shown}: the address has no valid host or port") from error
    headers = {"User-Agent": "neurondynamics", "Accept-Encoding": "identity"}
    request = Request(parts._replace(netloc=host, fragment="").geturl(), headers=headers)
    if parts.username is not None:
        given = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        key = base64.b64encode(given.encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {key}")
    return request


def _attempt(request: Request, shown: str, path: Path) -> None:
    had = path.stat().st_size if path.exists() else 0
    request.remove_header("Range")
    if had:
        request.add_header("Range", f"bytes={had}-")
    try:
        response = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if had and error.code == 416:
            path.unlink()  # the server holds less than was downloaded: begin anew
        elif error.code not in PASSING:
            raise ValueError(f"{shown}: the server says {error.code} {error.reason}") from error
        raise Interruption(f"The server says {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise Interruption(f"{type(error).__name__}: {error}") from error
    with response:
        had = had if response.status == 206 else 0  # a server may send all of it anew
        length = response.headers.get("Content-Length")
        total = None if length is None else had + int(length)
        require_space(path, (total or had) - had)
        with open(path, "ab" if had else "wb") as file:
            pieces = None if total is None else math.ceil((total - had) / PIECE)
            for piece in progress(_pieces(response), f"Downloading {path.name} (MiB)", pieces):
                file.write(piece)
    if total is not None and path.stat().st_size != total:
        raise Interruption(f"the connection ended after {path.stat().st_size} of {total} bytes")


def _pieces(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while piece := response.read(PIECE):
            yield piece
    except (OSError, HTTPException) as error:
        raise Interruption(f"{type(error).__name__}: {error}") from error
