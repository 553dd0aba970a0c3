"""Contents and not times decide what of a study is stale."""

from __future__ import annotations

from dataclasses import fields

import snakemake
from snakemake.exceptions import WorkflowError
from snakemake.settings.enums import RerunTrigger
from snakemake.settings.types import DAGSettings
from snakemake.workflow import Workflow

LARGEST_CHECKSUM = 10 * 2**30  # bytes; hashing as much takes Snakemake half a minute
SETTINGS = {"rerun_triggers", "max_checksum_file_size", "force_incomplete"}


class ByContent(Workflow):
    """A workflow that changes Snakemake's defaults for what is stale.

    Snakemake's trigger on code compares the time of a script: without it, and with a digest of
    the code in every rule's params, a touched script or an edited comment reruns nothing. Nor
    does a touched store, once files above Snakemake's 1 MB are compared by checksum too. Only a
    profile beside the Snakefile or the command line could say so otherwise, and what they say
    beyond Snakemake's defaults stays as it is. What an interruption left unfinished is run again,
    without `--rerun-incomplete`: every rule gives the same result again.
    """

    @property
    def dag_settings(self):
        """The settings, which arrive only after the Snakefile has been read."""
        return vars(self)["dag_settings"]

    @dag_settings.setter
    def dag_settings(self, chosen):
        default = DAGSettings()
        if chosen.rerun_triggers == default.rerun_triggers:
            chosen.rerun_triggers = RerunTrigger.all() - {RerunTrigger.CODE}
        if chosen.max_checksum_file_size == default.max_checksum_file_size:
            chosen.max_checksum_file_size = LARGEST_CHECKSUM
        chosen.force_incomplete = True
        vars(self)["dag_settings"] = chosen


def by_content(workflow: Workflow) -> None:
    """Let contents and not times decide what is stale in a workflow whose Snakefile is read.

    Snakemake makes the workflow before it reads the Snakefile and has no other way in, so its class
    is changed. Raises WorkflowError where Snakemake no longer has what this builds on.
    """
    lacking = SETTINGS - {setting.name for setting in fields(DAGSettings)}
    if type(workflow) is not Workflow or not hasattr(Workflow, "dag_settings") or lacking:
        raise WorkflowError(
            f"Snakemake {snakemake.__version__} decides in another way what is stale than "
            "this workflow knows; install the version that envs/requirements.txt names, or adapt "
            f"{__name__}"
        )
    workflow.__class__ = ByContent
