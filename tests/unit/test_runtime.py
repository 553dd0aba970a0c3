"""The log, progress, and what is left out of logs."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from neurondynamics import runtime
from neurondynamics.runtime import (
    failure_in,
    file_digest,
    human_size,
    keep_secret,
    progress,
    redact,
)

SCRIPTS = Path(runtime.__file__).resolve().parents[1]


def run_script(tmp_path, body):
    script = tmp_path / "failing.py"
    start = "import warnings\nfrom neurondynamics.runtime import start_log\n"
    script.write_text(f"{start}start_log({str(tmp_path / 'logs' / 'deep' / 'x.log')!r})\n{body}")
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, (tmp_path / "logs" / "deep" / "x.log").read_text()


LOG = Path("logs", "deep", "x.log")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("KeyError('gone')", "KeyError: 'gone'"),
        ("ValueError('line 3: odd\\nsecond line')", "line 3: odd\nsecond line"),
        ("ValueError()", "ValueError:"),
        ("ExceptionGroup('two', [ValueError('odd'), KeyError('gone')])", "ExceptionGroup: two (2"),
    ],
)
def test_a_traceback_lands_in_the_log_alone_behind_the_message(tmp_path, error, message):
    """The terminal gets the message from there: it says what is wrong, not where in our code."""
    body = f"def deep():\n    try:\n        1 / 0\n    finally:\n        raise {error}\n\ndeep()\n"
    done, log = run_script(tmp_path, body)
    assert done.returncode == 1
    assert "Traceback" in log
    assert "in deep" in log
    assert failure_in(tmp_path / LOG).startswith(message)
    assert "Traceback" not in failure_in(tmp_path / LOG)
    assert not [word for word in ("gone", "odd", "Traceback") if word in done.stderr]


def test_a_log_without_a_failure_tells_none(tmp_path):
    run_script(tmp_path, "import logging\nlogging.getLogger('x').error('odd, but not the end')\n")
    assert failure_in(tmp_path / LOG) is None
    assert failure_in(tmp_path / "nowhere.log") is None


def test_threads_that_wait_sleep_and_are_no_more_than_the_job_has(tmp_path, monkeypatch):
    """Before torch and tokenizers are loaded; what a person has set stays."""
    body = "import os\nprint([os.environ.get(k) for k in ('OMP_WAIT_POLICY', 'RAYON_NUM_THREADS')])"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for name in ("OMP_WAIT_POLICY", "RAYON_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert run_script(tmp_path, body)[0].stdout == "['PASSIVE', '3']\n"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert run_script(tmp_path, body)[0].stdout == "['ACTIVE', '3']\n"


def test_an_import_that_fails_lands_in_the_log(tmp_path):
    done, log = run_script(tmp_path, "import no_such_module_at_all\n")
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'no_such_module_at_all'" in log


def test_warnings_and_records_land_in_the_log(tmp_path):
    body = "import logging\nwarnings.warn('odd')\nlogging.getLogger('x').info('said %d', 3)\n"
    done, log = run_script(tmp_path, body)
    assert done.returncode == 0
    assert "UserWarning: odd" in log
    assert "INFO x: said 3" in log


SECRETS = {
    "HF_TOKEN": "hf_abcdefgh",
    "wandb_api_key": "k3y/with?signs",
    "SMTP_PASSWORD": "hf_abcdefgh-longer",
    "PASSWORD": "plain-one",
    "AWS_SECRET": "s3cr3t",
    "PGPASSWORD": "pg-secret",
    "OPENAI_APIKEY": "sk-1234",
    "GITHUB_PAT": "ghp_9876",
    "HFTOKEN": "hf_no_underscore",
    "DB_PWD": "pwd-12345",
    "HF_AUTH": "auth-12345",
}


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_of_the_environment_lands_in_a_log(tmp_path, monkeypatch, name):
    for variable, value in SECRETS.items():
        monkeypatch.setenv(variable, value)
    value = SECRETS[name]
    body = f"""
import logging, urllib.parse
logging.getLogger('x').info('sent %s to the hub', {value!r})
warnings.warn('with ' + urllib.parse.quote({value!r}, safe=''))
def deep(token):
    raise ValueError('refused: ' + token)
try:
    deep({value!r})
except ValueError as error:
    raise RuntimeError('no access') from error
"""
    done, log = run_script(tmp_path, body)
    assert done.returncode == 1
    for text in (log, done.stderr):
        # the lines of code that a traceback shows hold it too
        assert not [part for part in (value, quote(value, safe="")) if part in text]
        assert "sent *** to the hub" in text
    assert "ValueError: refused: ***" in log
    assert "RuntimeError: no access" in log


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at https://me:pa55@host.org/simple/ x", "at https://***@host.org/simple/ x"),
        ("at https://tok3n@host.org:80/a@b", "at https://***@host.org:80/a@b"),
        ("https://a:b@c@host/ and ftp://u:p@h", "https://***@host/ and ftp://***@h"),
        ("https://host.org/a, me@host.org", "https://host.org/a, me@host.org"),
        ("(https://host.org/a.txt?token=s3cr3t#x)", "(https://host.org/a.txt"),
        ("'https://host.org?key=s3cr3t'", "'https://host.org'"),
        ("see https://host.org/a#part", "see https://host.org/a"),
    ],
)
def test_credentials_and_queries_of_urls_are_left_out(text, expected):
    assert redact(text) == expected


@pytest.mark.parametrize(
    "url", ["http://me:pa55w0rd@h:x/a?signature=abcdefgh", "h://me:pa55w0rd@["]
)
def test_secrets_of_a_url_in_use_are_left_out_of_others_messages(url, monkeypatch):
    """Libraries quote parts of an address."""
    monkeypatch.setattr(runtime, "_SECRETS", set())
    shown = keep_secret(url)
    for text in (shown, "nonnumeric port: 'pa55w0rd@h'", "signature=abcdefgh", "me:pa55w0rd"):
        assert "pa55w0rd" not in redact(text)
        assert "abcdefgh" not in redact(text) or "?" not in url


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_the_password_of_a_proxy_is_left_out(monkeypatch, scheme):
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}me:pa55w0rd@proxy:8080")
    assert "pa55w0rd" not in redact("tunnel as me:pa55w0rd failed")


def test_what_is_no_secret_stays(monkeypatch):
    plain = {"SORT_KEY": "abc", "KEYBOARD": "qwerty", "MONKEY": "banana"}
    words = {"TOKENIZERS_PARALLELISM": "false", "SOME_KEY": "false", "KEY_DIR": "qwerty"}
    for name, value in (plain | words | {"DEPLOY_KEY": "/tmp"}).items():
        monkeypatch.setenv(name, value)
    text = "abc qwerty banana false /tmp"
    assert redact(text) == text


def test_progress_yields_everything_and_logs_the_end(caplog):
    caplog.set_level("INFO")
    assert list(progress(iter("abc"), "reading", total=3)) == ["a", "b", "c"]
    assert "reading: done, 3 in 0 s" in caplog.text
    assert list(progress([], "nothing")) == []


def test_progress_logs_a_line_every_30_seconds_with_how_far_it_is(caplog, monkeypatch):
    caplog.set_level("INFO")
    clock = iter(range(0, 1000, 11))
    monkeypatch.setattr(runtime.time, "monotonic", lambda: next(clock))
    list(progress(range(9), "reading"))
    lines = [record.getMessage() for record in caplog.records if "of 9" in record.getMessage()]
    assert lines == ["reading: 3 of 9", "reading: 6 of 9", "reading: 9 of 9"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 * 2**20, "3.0 MiB"),
     (5 * 2**29, "2.5 GiB"), (2**41, "2.0 TiB"), (2**52, "4096.0 TiB")],
)  # fmt: skip
def test_sizes_for_people(size, text):
    assert human_size(size) == text


def test_a_file_is_digested_by_its_content(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"content").hexdigest()
