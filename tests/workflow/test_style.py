"""The rules keep to the rules of the house, and the tools that check them agree."""

import re
import subprocess
import sys

import pytest
from standins import FAMILIES as PAPER
from studies import ROOT

RULES_FOLDER = ROOT / "workflow" / "rules"
LONGEST = 25  # lines
NEEDED = ("docstring", "input", "output", "log", "benchmark", "conda", "threads", "resources")
NEEDED += ("params", "script")
SHARED = {  # rules that do with other files what the rule of the script's name does
    "capture_base_activations": "capture_activations",
    "attribute_direction": "attribute_neurons",
    "summarize_direction": "summarize_groups",
}
STUDIES = sorted(path.stem for path in (ROOT / "workflow" / "studies").glob("*.yaml"))
PAIRS = "results/gpt2-medium/base/preferences.jsonl"  # what three of the studies tune on
CHECKS = {
    "snakefmt": ["snakefmt", "--check", "Snakefile", "workflow/rules"],
    "ruff check": ["ruff", "check", "--no-cache"],
    "ruff format": ["ruff", "format", "--check", "--no-cache"],
}


def read_rules() -> dict[str, dict[str, str]]:
    """Return each rule's directives by name; what `use rule` takes over is filled in."""
    rules = {}
    for path in sorted(RULES_FOLDER.glob("*.smk")):
        text = path.read_text(encoding="utf-8")
        for constant, value in re.findall(r'^([A-Z]+) = (".+")$', text, re.M):
            text = re.sub(rf"\b{constant}\b(?! =)", value, text)
        for header, body in re.findall(r"^((?:use )?rule .+):\n((?:[ \n].*\n?)*)", text, re.M):
            directives = dict(re.findall(r"^ {4}(\w+):(.*(?:\n {8}.*)*)", body, re.M))
            directives["docstring"] = "".join(re.findall(r'\A {4}"""(.+)"""$', body, re.M))
            directives["lines"] = f"{header}:\n{body}".strip()
            words = header.split()
            if words[0] == "use":  # use rule ORIGINAL as NAME with
                _, _, original, _, name, _ = words
                inherited = {**rules[original], "docstring": "that of the original"}
                directives = inherited | {k: v for k, v in directives.items() if v}
            else:
                name = words[1]
            rules[name] = directives
    return rules


RULES = read_rules()


def test_rules_were_read():
    assert len(RULES) == 52
    assert RULES["fetch_model"]["threads"].strip() == "1"
    assert "'{state}'" not in RULES["capture_base_activations"]["params"]


@pytest.mark.parametrize("name", RULES)
def test_rule(name):
    rule = RULES[name]
    without = [directive for directive in NEEDED if not rule.get(directive)]
    # one rule only prints; a benchmark would be a file, and it would print but once
    assert without == (["input", "output", "benchmark"] if name == "estimate" else [])
    assert [word for word in ("run", "shell", "message") if word in rule] == []
    assert "lambda" not in rule["lines"]
    assert "mem_mb=" in rule["resources"]
    assert "runtime=" in rule["resources"]
    (script,) = re.findall(r'"\.\./scripts/(\w+)\.py"', rule["script"])
    assert f'code=code_digest("{script}")' in rule["params"]
    assert script == SHARED.get(name, name)
    (environment,) = re.findall(r'"(.+)"', rule["conda"])
    assert (RULES_FOLDER / environment).is_file()
    # what tells apart the files that a rule writes tells apart its logs and benchmarks too
    wildcards = set(re.findall(r"\{(\w+)\}", rule.get("output", "")))
    for directive, ending in (("log", ".log"), ("benchmark", ".tsv")):
        path = rule.get(directive, ending).strip().strip('",')
        assert set(re.findall(r"\{(\w+)\}", path)) == wildcards
        assert path.endswith(ending)


@pytest.mark.parametrize("name", RULES)
def test_rule_is_short(name):
    assert len(RULES[name]["lines"].splitlines()) <= LONGEST


@pytest.mark.parametrize(("profile", "key"), [("gpu", "set-threads"), ("slurm", "set-resources")])
def test_profiles_name_the_rules_that_need_a_gpu(profile, key):
    text = (ROOT / "workflow" / "profiles" / profile / "config.yaml").read_text(encoding="utf-8")
    (named,) = re.findall(rf"^(?:# )?{key}:\n((?:(?:# )?  \w+: .+\n)+)", text, re.M)
    wanted = {name for name, rule in RULES.items() if "gpu=" in rule["resources"]}
    assert set(re.findall(r"^\W+(\w+):", named, re.M)) == wanted


def test_every_script_has_its_rule():
    scripts = {path.stem for path in (ROOT / "workflow" / "scripts").glob("*.py")}
    assert scripts == set(RULES) - set(SHARED)


def test_rule_files_import_no_model_library():
    for path in [ROOT / "Snakefile", *RULES_FOLDER.glob("*.smk")]:
        assert not re.search(r"^\s*(import|from) (torch|transformers)", path.read_text(), re.M)


@pytest.mark.parametrize("check", CHECKS)
def test_tools_agree(check):
    command = [sys.executable, "-m", *CHECKS[check]]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_snakemake_lint_is_satisfied(tmp_path):
    command = [sys.executable, "-m", "snakemake", "--lint", "--directory", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("overlay", STUDIES)
def test_studies_can_be_planned(overlay, tmp_path):
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--directory", str(tmp_path)]
    command += ["--cores", "1", "--configfile", f"workflow/studies/{overlay}.yaml"]
    if PAIRS in (ROOT / "workflow" / "studies" / f"{overlay}.yaml").read_text():
        (tmp_path / PAIRS).parent.mkdir(parents=True)
        (tmp_path / PAIRS).touch()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    planned = set(re.findall(r"rule (\w+):", result.stdout))
    assert {"tune_model", "tabulate_interventions"} <= planned
    assert ("tabulate_published" in planned) == (overlay in PAPER)
    assert ("steer_continuations" in planned) == (overlay == "gpt2-medium")
