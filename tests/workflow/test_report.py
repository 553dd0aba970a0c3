"""The report and the graphs that snakemake makes of a finished study."""

import re

import pytest
from neurondynamics.study.results import FIGURES, TABLES
from rules import read_rules
from studies import EXPORTED
from test_results import ELSEWHERE

NAMES = {"model": "tiny", "tuned": "dpo"}
IN_REPORT = [table for table in TABLES if table.label is not None and table.name != "published"]


@pytest.fixture(scope="module")
def report(finished, tmp_path_factory) -> str:
    """The report, made where no network is reachable, of a study with two tuning seeds."""
    study = finished.copy(tmp_path_factory.mktemp("report") / "study")
    study.change("tuned.dpo.seeds", [1])
    study.run("--report", "report.html")
    return study.path("report.html").read_text(encoding="utf-8")


def test_report_needs_no_network(report):
    assert not re.search(r"<(script|link|img)\b[^>]*\b(src|href)=[\"']?(https?:)?//", report)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_report_shows_the_figures_with_captions(report, figure):
    entry = find_entry(report, figure.path("svg").format(**NAMES))
    assert '"mime_type": "image/svg+xml"' in entry
    # those of the paper say which they are
    assert ("(Figure " in find_caption(entry)) == bool(figure.paper)


@pytest.mark.parametrize("table", IN_REPORT, ids=lambda table: table.name)
def test_report_shows_the_tables_with_captions(report, table):
    find_caption(find_entry(report, table.path.format(**NAMES)))


def find_caption(entry: str) -> str:
    """Return a result's caption, with its variables filled in."""
    (caption,) = re.findall(r'"caption": "(.*?[^\\])"', entry)
    assert len(caption) > 80
    assert "{{" not in caption
    assert "{%" not in caption
    assert "toxic" not in caption  # the study is about another behaviour
    return caption


def find_entry(report: str, path: str) -> str:
    """Return what the report says about a result, up to the data of the job that made it."""
    found = re.search(rf'"{re.escape(path)}": \{{"name".*?"job_properties"', report, re.DOTALL)
    assert found, f"the report holds no {path}"
    return found[0]


def test_report_names_the_models(report):
    assert "tiny" in report
    assert '"tuned": "dpo"' in report


@pytest.mark.parametrize("graph", ["--dag", "--rulegraph"])
def test_graphs_are_drawn(finished, tmp_path, graph):
    study = finished.copy(tmp_path / "study")
    study.change("tuned.dpo.seeds", [1])
    text = study.run("all", EXPORTED, graph)
    assert "digraph snakemake_dag {" in text
    drawn = set(re.findall(r'label = "(\w+)', text))
    assert drawn == {"all", *read_rules()} - ELSEWHERE
