"""The rules as Snakemake reads them, and their text."""

import re
from dataclasses import dataclass
from functools import cache

from snakemake.api import SnakemakeApi
from snakemake.rules import Rule
from snakemake.settings.enums import Quietness
from snakemake.settings.types import OutputSettings, ResourceSettings
from studies import ROOT

FOLDER = ROOT / "workflow" / "rules"


@cache
def read_rules() -> dict[str, Rule]:
    """Return the rules of the default study by name, but for the target `all`."""
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(ResourceSettings(cores=1), snakefile=ROOT / "Snakefile")
        return {rule.name: rule for rule in workflow._workflow.rules if rule.name != "all"}


def patterns(files) -> list[str]:
    """Return file names of a rule with plain wildcards, without what constrains them."""
    return [re.sub(r"\{(\w+),[^{}]*(\{[^{}]*\}[^{}]*)*\}", r"{\1}", str(file)) for file in files]


def script_of(rule: Rule) -> str:
    """Return a rule's script in the folder of scripts, without the ending."""
    return rule.script.format(params=rule.params).removeprefix("../scripts/").removesuffix(".py")


@dataclass(frozen=True)
class Text:
    """The text of a rule: its first line, its whole, and the directives in it."""

    header: str
    lines: str
    directives: set[str]


def read_texts() -> list[Text]:
    """Return the text of every rule, also of the one that a loop makes many of."""
    found = []
    for path in sorted(FOLDER.glob("*.smk")):
        text = path.read_text(encoding="utf-8")
        pattern = r"^( *)((?:use rule .+ with|rule(?: \w+)?):)\n((?:\1 +.*\n|\n)*)"
        for indent, header, body in re.findall(pattern, text, re.MULTILINE):
            directives = re.findall(rf"^{indent} {{4}}(\w+):", body, re.MULTILINE)
            lines = f"{header}\n{body}".strip()
            found.append(Text(f"{path.name}: {header}", lines, set(directives)))
    return found
