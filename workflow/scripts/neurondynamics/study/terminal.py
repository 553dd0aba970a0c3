"""What Snakemake shows of a study: a failed job once, by its message, and no secret."""

from __future__ import annotations

import logging

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from neurondynamics.runtime import failure_in, redact

# what Snakemake says of a script that failed beside the rule, the message and the path of its log
COMMAND_FAILED = "CalledProcessError in file"
ORDINARY = "returned non-zero exit status 1."  # others are signals, of which no log tells
SHOWN = ("msg", "reason", "cmd")  # of a record; the reason to run a job holds params that changed


def show_plainly() -> None:
    """Let Snakemake's error of a job hold the message in the job's log, and nothing hold secrets.

    A script writes how it failed to its log alone; Snakemake knows only that it did.
    """
    logger.addFilter(_told)  # one function counts once


def _told(record: logging.LogRecord) -> bool:
    for name in SHOWN:
        value = getattr(record, name, None)
        if isinstance(value, str):
            setattr(record, name, redact(value))
    if getattr(record, "event", None) == LogEvent.JOB_ERROR:
        told = [*map(failure_in, record.log), record.rule_msg]  # a cluster says something too
        record.rule_msg = "\n    ".join(filter(None, told)) or None
    return not (COMMAND_FAILED in str(record.msg) and ORDINARY in record.msg)
