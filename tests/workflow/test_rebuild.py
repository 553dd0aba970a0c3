"""What runs again after a change, and what does not: by dry runs on copies of a finished study."""

import ast
import os
import resource
import subprocess
import sys

import pytest
from neurondynamics.study.digest import code_digest
from neurondynamics.study.results import COMPARISON
from neurondynamics.study.results import FIGURES as ROWS
from neurondynamics.study.wanted import seeded
from rules import read_rules, script_of

LIBRARY = "workflow/scripts/neurondynamics"
OF_INTERVENTIONS = {"draw_cumulative_effect", "draw_patch_modes", "draw_scorer_effects"}
OF_INTERVENTIONS |= {"draw_fidelity", "draw_tradeoff"}
# of the study, which has no further seeds
FIGURES = {row.rule for row in ROWS if row.place == COMPARISON and row.when is not seeded}
ATTRIBUTION = {
    *("measure_change", "measure_gradients", "attribute_neurons", "attribute_heads"),
    "measure_nulls",
    "project_layers",
    "decode_neurons",
    "summarize_groups",
    *("attribute_direction", "summarize_direction", "tabulate_directions"),
    *("tabulate_sources", "tabulate_group_categories"),
    "tabulate_weights",
    *("decompose_shift", "tabulate_account", "tabulate_rankings"),
}
TABLES = {
    *("tabulate_interventions", "tabulate_controls", "tabulate_categories", "check_claims"),
    "tabulate_scorers",
}
CONCLUSIONS = {"score_generations", "measure_generations"} | TABLES | OF_INTERVENTIONS
RUN = {"run_experiment", "measure_fidelity"}
EXPERIMENTS = RUN | {"choose_intervention"} | CONCLUSIONS
OF_TUNED = (
    {"capture_activations", "continue_prompts", "measure_account"}
    | ATTRIBUTION
    | EXPERIMENTS
    | FIGURES
)
SAMPLING = {"sample_continuations", "score_continuations", "pair_preferences", "pair_unseen"}
FETCHING = {"fetch_model", "fetch_dataset", "split_prompts", "prepare_corpus"}
DIRECTIONS = {"fit_direction", "compare_directions", "draw_direction_cosines"}
OF_BASE = {"capture_base_activations", "extract_features"} | DIRECTIONS | SAMPLING


def touch(folder) -> None:
    """Make all files in a folder look new, but for snakemake's own note of a folder's time."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name != ".snakemake_timestamp":
            os.utime(path)


def processor_seconds(function, *arguments) -> float:
    """Return the processor's time that a function's processes take."""
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    function(*arguments)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime


def plan_nothing(folder):
    """Plan a workflow of one rule whose output is there, which takes Snakemake about 1.9 s."""
    (folder / "Snakefile").write_text('rule all:\n    output: "done"\n    shell: "touch done"\n')
    (folder / "done").touch()
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1", "--directory", "."]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def test_a_second_run_has_nothing_to_do(study, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in study.path("results").rglob("*")}
    assert study.plan() == []
    least = processor_seconds(plan_nothing, tmp_path)
    # 5 s where Snakemake by itself takes 1.9; other tests and slow machines stretch both
    assert processor_seconds(study.plan) < 2.7 * least
    assert "Nothing to be done" in study.run()
    assert {path: path.stat().st_mtime_ns for path in study.path("results").rglob("*")} == before


def test_touching_files_reruns_nothing(study):
    for name in ("Snakefile", "config.yaml", "study.yaml"):
        os.utime(study.path(name))
    for folder in ("workflow", "envs", "inputs", "resources", "results"):
        touch(study.path(folder))
    assert study.planned() == set()


def test_touching_a_large_store_reruns_nothing(study):
    """Snakemake compares files by checksum up to a size, and larger ones by time."""
    store = study.path("results/tiny/dpo/prompt_reductions.h5")
    with open(store, "ab") as file:
        file.write(bytes(2_000_000))  # HDF5 reads what its header points at, and this is beyond
    table = "results/tiny/dpo/tables/groups.csv"
    study.run(table)
    assert study.plan(table) == []
    os.utime(store)
    assert study.planned(table) == set()


def test_a_changed_result_is_noticed(study):
    store = study.path("results/tiny/dpo/prompt_reductions.h5")
    with open(store, "ab") as file:
        file.write(b"\0")
    read = {"summarize_groups", "tabulate_directions", "tabulate_sources", "check_claims"}
    read |= {"tabulate_group_categories"}
    assert study.planned() == read | {"draw_group_shares", "draw_reduction_sources"}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_model_that_changes_in_its_folder_is_noticed(study, name):
    """As weights do that a training script saves again under the same name."""
    path = study.path(f"inputs/base/{name}")
    content = path.read_bytes()
    with open(path, "r+b") as file:
        file.write(content[:-2] + content[-2:][::-1])
    assert "fetch_model" in study.planned()


def test_code_of_one_figure_reruns_that_figure(study):
    script = "workflow/scripts/figures/draw_group_shares.py"
    study.edit(script, "100 *", "100.0 *")
    assert study.planned() == {"draw_group_shares"}


def test_comments_and_docstrings_of_the_library_rerun_nothing(study):
    for path in study.path(LIBRARY).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        quoted = ast.get_docstring(ast.parse(text), clean=False)
        if quoted:
            text = text.replace(quoted, f"{quoted} And so on.", 1)
        path.write_text(f"{text}\n# a note\n", encoding="utf-8")
    assert study.plan() == []


def test_code_of_the_plots_reruns_the_figures(study):
    path = study.path(f"{LIBRARY}/figures/style.py")
    path.write_text(path.read_text(encoding="utf-8") + "\nADDED = 1\n", encoding="utf-8")
    assert study.planned() == FIGURES | {"draw_direction_cosines"}


def test_code_of_some_figures_reruns_those_figures(study):
    path = study.path(f"{LIBRARY}/figures/effect_plots.py")
    path.write_text(path.read_text(encoding="utf-8") + "\nADDED = 1\n", encoding="utf-8")
    assert study.planned() == OF_INTERVENTIONS


def test_code_of_the_metrics_reruns_only_the_scoring(study):
    """And what a search chose with the help of its scores."""
    path = study.path(f"{LIBRARY}/evaluation/metrics.py")
    path.write_text(path.read_text(encoding="utf-8") + "\nADDED = 1\n", encoding="utf-8")
    plan = study.plan()
    assert {job.rule for job in plan} == EXPERIMENTS
    assert experiments(plan, "run_experiment") == {"edits"}


def test_code_of_generation_reruns_the_rules_that_import_it(study):
    scripts = study.path("workflow/scripts")
    names = {script.split("/")[1]: script for script in map(script_of, read_rules().values())}
    before = {name: code_digest(script, scripts) for name, script in names.items()}
    path = study.path(f"{LIBRARY}/lm/generation.py")
    path.write_text(path.read_text(encoding="utf-8") + "\nADDED = 1\n", encoding="utf-8")
    changed = {
        name for name, digest in before.items() if code_digest(names[name], scripts) != digest
    }
    assert changed == {
        "sample_continuations",
        "steer_continuations",
        "extract_features",
        "capture_activations",
        *("measure_change", "measure_gradients"),
        "decompose_shift",
        *RUN,
        "continue_prompts",
        "measure_account",
    }
    # the others follow because they read what these write
    assert study.planned() == OF_BASE | {"tune_model"} | OF_TUNED


def experiments(plan, rule=None) -> set[str]:
    """Return the experiments that are planned, or those that a rule is planned for."""
    jobs = (job for job in plan if rule in (None, job.rule))
    return {job.wildcards["experiment"] for job in jobs if "experiment" in job.wildcards}


def test_one_experiment_reruns_that_experiment(study):
    study.change("experiments.keys.interventions.scale-keys.0.factor", 4.0)
    plan = study.plan()
    assert experiments(plan) == {"keys"}
    assert {job.rule for job in plan} == RUN | CONCLUSIONS


def test_a_file_of_neurons_reruns_the_experiments_that_read_it(study):
    study.path("inputs/neurons.csv").write_text("layer,neuron\n0,5\n", encoding="utf-8")
    plan = study.plan()
    assert experiments(plan) == {"edits"}
    assert {job.rule for job in plan} == RUN | CONCLUSIONS


def test_the_limit_of_a_search_reruns_the_choice_and_what_takes_it(study):
    study.change("experiments.search.search.perplexity", 1.1)
    plan = study.plan()
    assert {job.rule for job in plan} == EXPERIMENTS
    assert experiments(plan, "choose_intervention") == {"search"}
    assert experiments(plan, "run_experiment") == {"edits"}


def test_a_candidate_of_a_search_reruns_the_search(study):
    study.change("experiments.search.interventions.weak.0.factor", 0.8)
    plan = study.plan()
    assert experiments(plan, "run_experiment") == {"search", "edits"}
    assert {job.rule for job in plan} == EXPERIMENTS


def test_a_word_to_steer_with_reruns_the_experiments_that_steer(study):
    study.change("directions.embeddings.words.toward", ["stupid"])
    plan = study.plan()
    assert experiments(plan, "run_experiment") == {"edits"}
    assert {job.rule for job in plan} == DIRECTIONS | RUN | CONCLUSIONS


def test_another_curve_draws_the_curve(study):
    study.change("curve", "edits")
    assert study.planned() == {"draw_cumulative_effect"}


def test_a_learning_rate_reruns_tuning_and_what_follows(study):
    study.change("tuned.dpo.learning_rate", 2e-3)
    assert study.planned() == {"tune_model"} | OF_TUNED


def test_another_version_reruns_nothing_of_the_first(study):
    """The table of groups of the brought version is there already."""
    study.change("tuned.brought", {"source": {"path": "inputs/tuned"}})
    plan = study.plan()
    assert {job.wildcards["tuned"] for job in plan} == {"brought"}
    done = {"measure_change", "attribute_neurons", "summarize_groups"}
    assert {job.rule for job in plan} == OF_TUNED - done - {"draw_learning_curve"}
    assert {job.wildcards["state"] for job in plan if "state" in job.wildcards} == {"base-ablated"}


def test_statistics_rerun_no_generation(study):
    study.change("statistics.samples", 60)
    assert study.planned() == {
        "project_layers",
        *("summarize_groups", "summarize_direction", "tabulate_directions"),
        *("tabulate_sources", "tabulate_group_categories"),
        *("decompose_shift", "tabulate_account", "draw_account"),
        *("tabulate_rankings", "draw_rankings"),
        "draw_group_shares",
        "draw_layer_projection",
        "draw_reduction_sources",
        "draw_residual_shift",
        *(TABLES - {"tabulate_scorers"}),
        *OF_INTERVENTIONS,
    }


def test_a_study_can_move(finished, tmp_path):
    """Nothing that is recorded holds the path of the folder."""
    elsewhere = tmp_path / "a" / "b"
    elsewhere.mkdir(parents=True)
    study = finished.copy(elsewhere / "moved")
    assert study.plan() == []


def test_a_lost_figure_is_drawn_again(study):
    svg = study.path("results/tiny/dpo/figures/group_stack.svg")
    old = svg.read_bytes()
    svg.unlink()
    assert study.planned() == {"draw_group_stack"}
    study.run(str(svg.relative_to(study.folder)))
    assert svg.read_bytes() == old  # no date and no random name in it
