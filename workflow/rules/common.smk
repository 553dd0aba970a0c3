"""Makes the library importable, and what the configuration says known to the rules."""

import sys
from functools import partial
from pathlib import Path

# the directory of this workflow, also when another workflow uses it as a module
WORKFLOW = Path(str(workflow.current_basedir)).parent
sys.path.insert(0, str(WORKFLOW / "scripts"))

from neurondynamics.study import configuration, digest, estimate, results, targets
from neurondynamics.study.attribution import COMPARED, STATES, Attribution
from neurondynamics.study.directions import SCORED, Directions
from neurondynamics.study.experiments import CHOICE, FIDELITIES, FOLLOWED, GENERATIONS, LOSSES
from neurondynamics.study.experiments import MARGINS, MEASURES, SCORES, UNITS, Experiments
from neurondynamics.study.sources import Sources
from neurondynamics.study.staleness import by_content
from neurondynamics.study.stage import SPLITS
from neurondynamics.study.terminal import show_plainly
from neurondynamics.study.tuning import CONTINUATIONS, STEERED, UNSEEN, Tuning

by_content(workflow)
show_plainly()
DEFAULT = WORKFLOW.parent / "config.yaml"
try:
    given = configuration.layers(workflow, config, DEFAULT)
except ValueError as error:
    raise WorkflowError(str(error))


configfile: DEFAULT


try:
    config = configuration.checked(given, workflow.is_main_process)
    if workflow.is_main_process and not workflow.modifier.skip_configfile:
        targets.check(config, targets.asked(sys.argv), WORKFLOW)
except ValueError as error:
    raise WorkflowError(str(error))
sources, tuning, directions = Sources(config), Tuning(config), Directions(config)
attribution, experiments = Attribution(config), Experiments(config)
code_digest = partial(digest.code_digest, root=WORKFLOW / "scripts")
memory_of = partial(estimate.memory_of, config)


def in_report(name):
    """Return the file of a table, with what the report says of it."""
    table = results.table(name)
    return report(table.path, **table.in_report)


def in_reports(*names):
    """Return the files of several tables, by their names."""
    return {name: in_report(name) for name in names}


def study_targets(wildcards):
    """Return every file that the study is run for."""
    return list(results.targets(config))


def needs_of_study(wildcards):
    """Return what the study needs of memory, time and disk."""
    return estimate.needs(config)
