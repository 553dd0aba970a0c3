"""The rules keep to the rules of the house, and the tools that check them agree."""

import ast
import re
import subprocess
import sys

import pytest
from neurondynamics.study.digest import code_digest, modules_of
from neurondynamics.study.results import FIGURES, TABLES
from rules import FOLDER, patterns, read_rules, read_texts, script_of
from standins import FAMILIES as PAPER
from studies import ROOT

SCRIPTS = ROOT / "workflow" / "scripts"
LONGEST = 25  # lines
SHARED = {  # rules that do with other files what the rule of the script's name does
    "capture_base_activations": "capture_activations",
    "attribute_direction": "attribute_neurons",
    "pair_unseen": "pair_preferences",
    "summarize_direction": "summarize_groups",
}
STUDIES = sorted({path.stem for path in (ROOT / "workflow" / "studies").glob("*.yaml")} - {"paper"})
PAIRS = "results/gpt2-medium/base/preferences.jsonl"  # what three of the studies tune on
CHECKS = {
    "snakefmt": ["snakefmt", "--check", "Snakefile", "workflow/rules"],
    "ruff check": ["ruff", "check", "--no-cache"],
    "ruff format": ["ruff", "format", "--check", "--no-cache"],
}


RULES = read_rules()
TEXTS = read_texts()


def test_every_rule_has_been_read():
    """Those of a loop have one text, which names none of them."""
    named = [name for text in TEXTS for name in re.findall(r"(?:as|: rule) (\w+)", text.header)]
    assert sorted([*named, *(figure.rule for figure in FIGURES)]) == sorted(RULES)


@pytest.mark.parametrize("name", RULES)
def test_rule(name):
    rule = RULES[name]
    printed = name == "estimate"  # a benchmark would be a file, and it would print but once
    assert bool(rule.output) == bool(rule.input) == bool(rule.benchmark) == (not printed)
    assert rule.log
    assert {"mem_mb", "runtime", "_cores"} <= set(rule.resources)
    script = script_of(rule)
    assert script.rsplit("/", 1)[1] == SHARED.get(name, name)
    assert rule.params.code == code_digest(script, SCRIPTS)
    assert (FOLDER / rule.conda_env).is_file()
    # what tells apart the files that a rule writes tells apart its logs and benchmarks too
    (log,) = rule.log
    for path, ending in ((log, ".log"), (rule.benchmark or "", ".tsv" if rule.benchmark else "")):
        (path,) = patterns([path])
        wildcards = rule.wildcard_names if path else set()
        assert set(re.findall(r"\{(\w+)\}", path)) == wildcards
        assert path.endswith(ending)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.header)
def test_the_text_of_a_rule(text):
    assert len(text.lines.splitlines()) <= LONGEST
    assert not {"run", "shell", "message"} & text.directives
    assert "lambda" not in text.lines
    # directives that `use rule` may take over, and those that a rule states itself
    if text.header.split()[1] == "rule":
        assert {"log", "conda", "threads", "resources", "params", "script"} <= text.directives
        assert "name" in text.directives or '"""' in text.lines


def test_every_figure_takes_its_rule_from_its_row():
    for figure in FIGURES:
        rule = RULES[figure.rule]
        assert dict(rule.input.items()).keys() == figure.reads.keys()
        assert patterns(rule.output) == figure.paths


def test_every_table_of_the_report_has_its_row():
    """And what no rule writes cannot be asked for."""
    written = {path for rule in RULES.values() for path in patterns(rule.output)}
    assert {path for row in (*TABLES, *FIGURES) for path in row.paths} <= written
    tables = {path for path in written if "/tables/" in path}
    assert tables == {row.path for row in TABLES}
    for row in (*TABLES, *FIGURES):
        assert row.label is None or (FOLDER / row.in_report["caption"]).is_file()


@pytest.mark.parametrize(("profile", "key"), [("gpu", "set-threads"), ("slurm", "set-resources")])
def test_profiles_name_the_rules_that_need_a_gpu(profile, key):
    text = (ROOT / "workflow" / "profiles" / profile / "config.yaml").read_text(encoding="utf-8")
    (named,) = re.findall(rf"^(?:# )?{key}:\n((?:(?:# )?  \w+: .+\n)+)", text, re.M)
    wanted = {name for name, rule in RULES.items() if "gpu" in rule.resources}
    assert set(re.findall(r"^\W+(\w+):", named, re.M)) == wanted


def test_every_script_has_its_rule():
    scripts = {path.stem for path in SCRIPTS.glob("*/*.py")} - {"__init__", "runtime", "limits"}
    assert scripts == set(RULES) - set(SHARED)


def test_modules_functions_and_parameter_lists_are_short():
    """A rule's entry function alone may have a long list of parameters."""
    for path in (ROOT / "workflow").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                taken = [one for one in arguments if one.arg not in ("self", "cls")]
                assert len(taken) <= 10 or node.name == path.stem, f"{path}: {node.name}"


def test_scripts_depend_on_no_check_of_the_configuration():
    """So that an edit of a check reruns nothing."""
    for path in SCRIPTS.glob("*/*.py"):
        modules = {module.as_posix() for module in modules_of(path.relative_to(SCRIPTS), SCRIPTS)}
        of_study = {name for name in modules if name.startswith("neurondynamics/study/")}
        allowed = {"neurondynamics/study/__init__.py", "neurondynamics/study/behaviour.py"}
        if path.stem != "estimate" and path.parent.name != "neurondynamics":
            assert of_study <= allowed, path


def test_rule_files_import_no_model_library():
    for path in [ROOT / "Snakefile", *FOLDER.glob("*.smk")]:
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
    overlays = ["paper", overlay] if overlay in PAPER else [overlay]
    names = [f"workflow/studies/{name}.yaml" for name in overlays]
    command += ["--cores", "1", "--configfile", *names]
    if any(PAIRS in (ROOT / name).read_text() for name in names):
        (tmp_path / PAIRS).parent.mkdir(parents=True)
        (tmp_path / PAIRS).write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    planned = set(re.findall(r"rule (\w+):", result.stdout))
    assert {"tune_model", "tabulate_interventions"} <= planned
    assert ("tabulate_published" in planned) == (overlay in PAPER)
    assert ("steer_continuations" in planned) == (overlay == "gpt2-medium")
