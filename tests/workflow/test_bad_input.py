"""Mistakes in a study stop it before any job, and the key, or the file and line, is named."""

import json

import pytest
from servers import Content, Files, serving
from studies import sentence


def refused(study, *fragments: str, target: str = "all") -> None:
    """Assert that a run stops before any job, and that what it says holds all fragments."""
    result = study.snakemake(target)
    assert result.returncode != 0
    for fragment in fragments:
        assert fragment in result.stdout
    assert "Traceback (most recent call last)" not in result.stdout
    assert {path.name for path in study.path("resources").iterdir()} <= {"shapes", "checked"}
    assert not study.path("logs").exists()


def test_every_wrong_key_and_value_is_named_at_once(untouched):
    study = untouched
    study.change("sead", 1)
    study.change("model.layer", 3)
    study.change("corpus.window_tokens", "many")
    study.change("generation.batch_size", 0)
    study.change("device", "gpu")
    study.change("scorers.opinion.kind", "profanity")
    study.change("datasets.challenge.files.0.sha265", "0")
    study.change("datasets.sampling.format", "line")
    study.change("prompts.train.numbers", 4)
    edits = "experiments.edits.interventions"
    study.change(f"{edits}.ablate-top.0.select.tops", 1)
    study.change(f"{edits}.patch-TP-.0.select.groups", ["TP-", "TPP"])
    study.change(f"{edits}.patch-AN-.0.operation", "patches")
    study.change("tuned.dpo.optimiser", "sgd")
    refused(
        study,
        "sead: unknown key; did you mean 'seed'?",
        "model.layer: unknown key; did you mean 'layers'?",
        "corpus.window_tokens: 'many' is not of type 'integer'",
        "generation.batch_size: 0 is less than the minimum of 1",
        "device: 'gpu' is unknown",
        "scorers.opinion.kind: 'profanity' is unknown; did you mean 'profanity-check'?",
        "datasets.challenge.files[0].sha265: unknown key; did you mean 'sha256'?",
        "datasets.sampling.format: 'line' is unknown; did you mean 'lines'?",
        "prompts.train.numbers: unknown key; did you mean 'number'?",
        f"{edits}.ablate-top[0].select.tops: unknown key; did you mean 'top'?",
        f"{edits}.patch-TP-[0].select.groups[1]: 'TPP' is unknown; did you mean",
        f"{edits}.patch-AN-[0].operation: 'patches' is unknown; did you mean 'patch'?",
        "tuned.dpo.optimiser: unknown key; did you mean 'optimizer'?",
    )


def test_everything_that_cannot_be_meant_is_named_at_once(untouched):
    study = untouched
    edits = "experiments.edits.interventions"
    study.change(f"{edits}.ablate-top.0.select.top", 133)
    study.change(f"{edits}.control.0.select.random", {"top": 1000})
    study.change(f"{edits}.unchanged.0", {"select": {"top": 4}, "operation": "scale"})
    study.change(f"{edits}.steer-svd.0.layer", 3)
    study.change(f"{edits}.lower-best.best_of", "serch")
    study.change("experiments.curve.interventions.none", [])
    study.change("curve", "curves")
    study.change(f"{edits}.patch-TP-.0.factor", 2)
    study.change(f"{edits}.patch-AN-.0.select.top", 3)
    study.change("experiments.keys.interventions.none", None)
    study.change("prompts.analysis.dataset", "challange")
    study.change("tuned.dpo.learning_rate", None)
    study.change("tuned.both", {"method": "dpo", "source": {"path": "inputs/tuned"}})
    study.change("model.source.wheel", "a==1")
    study.change("attribution.ablated", 500)
    study.change("preferences.margin", None)
    study.change("sampling.scorer", "opinions")
    study.change("attribution.directions", ["review"])
    refused(
        study,
        f"{edits}.ablate-top[0].select.top: 133 neurons, but the model has only 132",
        f"{edits}.control[0].select.random.top: 1000 neurons, but the model has only 132",
        f"{edits}.unchanged[0].factor: this key is missing (scale needs it)",
        f"{edits}.steer-svd[0].layer: 3, but layers are counted 0 to 2",
        f"{edits}.lower-best.best_of: 'serch' is no experiment with the key search",
        f"{edits}.patch-TP-[0].factor: this key does not go with patch",
        f"{edits}.patch-AN-[0].select: give exactly one of top, groups, neurons, heads, "
        "key_values, modules, file, random",
        "the baseline `none: []` of the state base stands in "
        f"{edits}.none and experiments.curve.interventions.none",
        "the baseline `none: []` of the state tuned is missing",
        "curve: there is no experiment 'curves'",
        "prompts.analysis.dataset: there is no dataset 'challange'; did you mean 'challenge'?",
        "tuned.both: give either source, or method",
        "model.source: give exactly one of wheel, hub, url, path, not wheel and path",
        "attribution.ablated: the model has only 132 neurons",
        "preferences.margin: this key is missing (sampled needs it)",
        "sampling.scorer: there is no scorer 'opinions'; did you mean 'opinion'?",
        "attribution.directions[0]: there is no direction 'review'; did you mean 'reviews'?",
    )


BROKEN_FILES = {
    "empty": ("sampling_calm.txt", b"\n \n", ["inputs/sampling_calm.txt holds no text"]),
    "not UTF-8": (
        "sampling_rude.txt",
        b"one line\ncaf\xe9 and so\n",
        ["inputs/sampling_rude.txt, line 2: not UTF-8"],
    ),
    "not JSON": (
        "challenge.jsonl",
        b'{"prompt": "a", "kind": "b"}\n\n{"prompt": "c",\n',
        ["inputs/challenge.jsonl, line 3: not JSON"],
    ),
    "no field": (
        "challenge.jsonl",
        b'{"prompt": "a", "kind": "b"}\n{"text": "c", "kind": "d"}\n',
        ["inputs/challenge.jsonl, line 2: no field 'prompt'; there are text, kind"],
    ),
    "too few": (
        "challenge.jsonl",
        b'{"prompt": "a", "kind": "b"}\n',
        ["prompts.analysis.number asks for 8 prompts, and 1 are left in challenge"],
    ),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_broken_prompt_files_are_named_with_the_line(untouched, case):
    name, content, fragments = BROKEN_FILES[case]
    untouched.path(f"inputs/{name}").write_bytes(content)
    refused(untouched, *fragments)


def test_a_missing_prompt_file_is_named(untouched):
    untouched.path("inputs/sampling_calm.txt").unlink()
    refused(untouched, "datasets.sampling.files: there is no file inputs/sampling_calm.txt")


@pytest.mark.parametrize("missing", ["inputs/articles.txt", "inputs/base", "inputs/neurons.csv"])
def test_a_missing_input_is_named(untouched, missing):
    untouched.path(missing).rename(untouched.path("inputs/elsewhere"))
    refused(untouched, missing)


def test_an_intervention_that_is_not_there_cannot_be_exported(untouched):
    target = "results/tiny/dpo/exported/curve/top-2"
    refused(untouched, "there is no intervention 'top-2'; did you mean 'top-", target=target)


def test_a_prompt_in_two_splits_is_named_in_both_places(untouched):
    challenge = untouched.path("inputs/challenge.jsonl").read_text(encoding="utf-8").splitlines()
    shared = [f"  {json.loads(line)['prompt'].upper()}!" for line in challenge]
    lines = [sentence(n, 6) for n in range(100, 104)] + shared
    path = untouched.path("inputs/sampling_calm.txt")
    path.write_text("\n".join(lines), encoding="utf-8")
    untouched.path("inputs/sampling_rude.txt").write_text("one more\n", encoding="utf-8")
    untouched.change("prompts.train", {"dataset": "sampling", "number": 21, "exclude": []})
    refused(
        untouched,
        "stand in both splits train and analysis",
        "sampling_calm.txt, line ",
        "(dataset sampling)",
        "challenge.jsonl, line ",
        "(dataset challenge)",
        "Add challenge to prompts.train.exclude",
    )


def test_a_file_with_another_checksum_is_named(untouched):
    digest = untouched.overlay["datasets"]["challenge"]["files"][0]["sha256"]
    expected = "0" * 64
    untouched.change("datasets.challenge.files.0.sha256", expected)
    refused(
        untouched,
        f"datasets.challenge.files: inputs/challenge.jsonl: expected sha256 {expected}, "
        f"found {digest}",
    )


def test_a_job_that_fails_is_told_once_by_its_message_and_without_secrets(untouched, monkeypatch):
    """Rule, message and log; the traceback is in the log. No secret is in what others may see."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Files, Content({})) as address:
        place = f"{address.removeprefix('http://')}/articles.txt"
        url = f"http://me:SECRETpassword@{place}?token=SECRETtoken"
        untouched.change("datasets.articles", {"url": url, "sha256": "0" * 64, "format": "lines"})
        failed = untouched.snakemake("resources/datasets/articles")
    message = f"http://***@{place}: the server says 404 Not Found"
    assert failed.returncode != 0
    assert failed.stdout.count(message) == 1
    assert "Error in rule fetch_dataset" in failed.stdout
    path = "logs/datasets/articles/fetch_dataset.log"
    assert f"log: {path}" in failed.stdout
    for word in ("Traceback", "CalledProcessError", "RuleException"):
        assert word not in failed.stdout
    log = untouched.path(path).read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in log
    for text in (failed.stdout, log):
        assert "SECRET" not in text
