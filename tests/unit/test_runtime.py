"""The log, progress, and what is left out of logs."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from neurondynamics import runtime
from neurondynamics.runtime import file_digest, human_size, progress, redact

SCRIPTS = Path(runtime.__file__).resolve().parents[1]


def test_a_script_of_figures_does_not_depend_on_models():
    """Editing how models run must not draw figures anew."""
    for script in SCRIPTS.glob("draw_*.py"):
        parts = [path.relative_to(SCRIPTS).parts for path in runtime._modules_of(script)]
        assert not any("lm" in names for names in parts), script


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


def test_a_traceback_lands_in_the_log_and_on_stderr(tmp_path):
    done, log = run_script(tmp_path, "def deep():\n    raise KeyError('gone')\n\ndeep()\n")
    assert done.returncode == 1
    for text in (log, done.stderr):
        assert "Traceback" in text
        assert "in deep" in text
        assert "KeyError: 'gone'" in text


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
        assert "ValueError: refused: ***" in text
        assert "RuntimeError: no access" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at https://me:pa55@host.org/simple/ x", "at https://***@host.org/simple/ x"),
        ("at https://tok3n@host.org:80/a@b", "at https://***@host.org:80/a@b"),
        ("https://a:b@c@host/ and ftp://u:p@h", "https://***@host/ and ftp://***@h"),
        ("https://host.org/a, me@host.org", "https://host.org/a, me@host.org"),
    ],
)
def test_credentials_in_urls_are_left_out(text, expected):
    assert redact(text) == expected


def test_what_is_no_secret_stays(monkeypatch):
    for name, value in {"SORT_KEY": "abc", "KEYBOARD": "qwerty", "MONKEY": "banana"}.items():
        monkeypatch.setenv(name, value)
    text = "abc qwerty banana"
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
