"""One version of every package: in the conda files, for pip, and for what the scripts import."""

import ast
import re
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from neurondynamics.study.results import FIGURES

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "workflow" / "scripts"
PINNED = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+_-]+)")
ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(lines: list[str]) -> dict[str, str]:
    found = [PINNED.fullmatch(line) for line in lines]
    assert None not in found, f"not pinned: {lines[found.index(None)]}"
    return {normalise(match[1]): match[2] for match in found}


def requirements() -> dict[str, str]:
    lines = (ROOT / "envs" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line.split("#")[0].strip() for line in lines]
    return read_pins([line for line in lines if line])


def conda_packages(path: Path) -> dict[str, str]:
    dependencies = yaml.safe_load(path.read_text(encoding="utf-8"))["dependencies"]
    (of_pip,) = (entry["pip"] for entry in dependencies if isinstance(entry, dict))
    return read_pins(of_pip)


@cache
def imported(path: Path) -> frozenset[str]:
    """Return the packages that a file imports, itself or through our library."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    packages = set()
    for name in names:
        module = SCRIPTS.joinpath(*name.split("."))
        if module.with_suffix(".py").is_file():
            packages |= imported(module.with_suffix(".py"))
        elif not module.exists() and name.split(".")[0] != "neurondynamics":
            packages.add(name.split(".")[0])
    return frozenset(packages - set(sys.stdlib_module_names))


def distributions(packages) -> set[str]:
    known = packages_distributions()
    return {normalise(known[package][0]) for package in packages}


def environment_of_scripts() -> dict[str, str]:
    """Return the environment of every script, by its path without the ending."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    pairs = re.findall(r'"\.\./\.\./envs/([\w-]+)\.yaml".*?"\.\./scripts/(\S+)\.py"', text, re.S)
    found = {script: environment for environment, script in pairs}
    of_figures = found.pop("{params.script}")
    return found | {figure.script: of_figures for figure in FIGURES}


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_conda_files_have_the_versions_of_the_requirements(path):
    pinned = requirements()
    packages = conda_packages(path)
    assert packages
    assert packages == {name: pinned.get(name) for name in packages}


def test_requirements_name_a_package_once():
    text = (ROOT / "envs" / "requirements.txt").read_text(encoding="utf-8")
    names = [normalise(name) for name, _ in re.findall(rf"^{PINNED.pattern}", text, re.M)]
    assert sorted(names) == sorted(set(names))
    assert len(names) == len(requirements())


def test_everything_that_the_workflow_imports_is_required():
    packages = set().union(*(imported(path) for path in SCRIPTS.rglob("*.py")))
    assert {"torch", "h5py", "yaml", "snakemake"} <= packages
    assert distributions(packages) <= set(requirements())


@pytest.mark.parametrize("script", sorted(environment_of_scripts()))
def test_environments_hold_what_their_scripts_import(script):
    environment = environment_of_scripts()[script]
    packages = conda_packages(ROOT / "envs" / f"{environment}.yaml")
    needed = distributions(imported(SCRIPTS / f"{script}.py"))
    assert needed - set(packages) == set()
