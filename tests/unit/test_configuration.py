"""The default study passes; whatever is wrong with another is said with its key."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from neurondynamics.configuration import (
    check_configuration,
    check_local_prompts,
    with_replicas,
    without_nulls,
)

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text())
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
STUDIES = sorted((ROOT / "workflow" / "studies").glob("*.yaml"))


def merged(config, overlay):
    """What Snakemake makes of an overlay: mappings are merged, all else is replaced."""
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            merged(config[key], value)
        else:
            config[key] = value
    return config


def overlaid(text):
    return without_nulls(merged(copy.deepcopy(DEFAULT), yaml.safe_load(text)))


def problems(text):
    """The lines that an overlay on the default study is refused with."""
    with pytest.raises(ValueError, match="the configuration is wrong") as caught:
        check_configuration(overlaid(text), SCHEMA)
    return [line.removeprefix("- ") for line in str(caught.value).splitlines()[1:]]


def passes(text):
    check_configuration(overlaid(text), SCHEMA)


def test_the_default_study_passes():
    check_configuration(without_nulls(DEFAULT), SCHEMA)


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_every_study_passes(study):
    passes(study.read_text())


@pytest.mark.parametrize("number", range(7))
def test_every_overlay_of_the_readme_passes(number):
    overlays = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(overlays) == 7
    passes(overlays[number])


NONE = "experiments: {ablation: {interventions: "


@pytest.mark.parametrize(
    ("overlay", "key", "said"),
    [
        # unknown keys, at every level
        ("sed: 1", "sed", "did you mean 'seed'?"),
        ("model: {layer: 3}", "model.layer", "did you mean 'layers'?"),
        ("model: {source: {weel: x==1}}", "model.source.weel", "did you mean 'wheel'?"),
        ("prompts: {train: {nummer: 3}}", "prompts.train.nummer", "did you mean 'number'?"),
        ("tuned: {dpo: {betta: 0.1}}", "tuned.dpo.betta", "did you mean 'beta'?"),
        ("statistics: {zzz: 1}", "statistics.zzz", "known are confidence, samples"),
        (
            NONE + "{x: [{select: {tops: 3}, operation: zero}]}}}",
            "experiments.ablation.interventions.x[0].select.tops",
            "did you mean 'top'?",
        ),
        (
            NONE + "{x: [{select: {top: 3}, operation: zero, strength: 2}]}}}",
            "experiments.ablation.interventions.x[0].strength",
            "unknown key",
        ),
        # values of another type or out of range
        ("seed: zero", "seed", "is not of type 'integer'"),
        ("seed: -1", "seed", "minimum"),
        ("generation: {new_tokens: 0}", "generation.new_tokens", "minimum"),
        ("generation: {new_tokens: 2.5}", "generation.new_tokens", "integer"),
        ("shards: true", "shards", "is not of type 'integer'"),
        ("tuned: {dpo: {learning_rate: 2e-5}}", "tuned.dpo.learning_rate", "number"),
        ("statistics: {confidence: 95}", "statistics.confidence", "maximum"),
        ("model: {name: a/b}", "model.name", "name that becomes part of file names"),
        ("model: {name: ..}", "model.name", "name that becomes part of file names"),
        ("tuned: {a b: {source: {path: x}}}", "tuned", "name that becomes part of file names"),
        ("datasets: {wikipedia: {wheel: gensim}}", "datasets.wikipedia.wheel", "pinned"),
        # unknown values
        ("scorers: {x: {kind: perspective}}", "scorers.x.kind", "known are profanity-check, lex"),
        ("scorers: {x: {kind: profanity}}", "scorers.x.kind", "did you mean 'profanity-check'?"),
        ("model: {dtype: float16}", "model.dtype", "'float16' is unknown; did you mean"),
        ("directions: {probe: {method: probes}}", "directions.probe.method", "mean 'probe'?"),
        (
            NONE + "{x: [{select: {groups: [TP-, TPP]}, operation: zero}]}}}",
            "experiments.ablation.interventions.x[0].select.groups[1]",
            "'TPP' is unknown",
        ),
        (
            NONE + "{x: [{select: {top: 3}, operation: erase}]}}}",
            "experiments.ablation.interventions.x[0].operation",
            "'erase' is unknown",
        ),
        # keys that are missing
        ("seed: null", "seed", "this key is missing"),
        ("model: {layers: null}", "model.layers", "this key is missing"),
        ("tuned: {dpo: {beta: null}}", "tuned.dpo.beta", "this key is missing"),
        (
            NONE + "{x: [{operation: zero}]}}}",
            "experiments.ablation.interventions.x[0].select",
            "this key is missing",
        ),
        # more neurons than there are: 30 layers of 1536
        (
            NONE + "{x: [{select: {top: 46081}, operation: zero}]}}}",
            "experiments.ablation.interventions.x[0].select.top",
            "the model has only 46080",
        ),
        (
            NONE + "{x: [{select: {random: {top: 46081}, seed: 0}, operation: zero}]}}}",
            "experiments.ablation.interventions.x[0].select.random.top",
            "the model has only 46080",
        ),
        ("attribution: {ablated: 46081}", "attribution.ablated", "only 46080"),
        ("attribution: {decoded: 46081}", "attribution.decoded", "only 46080"),
        # keys that do not go together
        ("model: {source: {path: x}}", "model.source", "not wheel and path; an overlay drops"),
        ("model: {source: {wheel: null, files: null}}", "model.source", "give one of wheel, hub"),
        ("model: {source: {files: null}}", "model.source.files", "wheel needs it"),
        ("model: {source: {path: x, wheel: null}}", "model.source.files", "not go with path"),
        (
            "tuned: {mine: {source: {path: x, wheel: a==1, files: [{path: b}]}}}",
            "tuned.mine.source",
            "not wheel and path",
        ),
        ("tuned: {mine: {source: {hub: a/b}}}", "tuned.mine.source.revision", "hub needs it"),
        ("tuned: {m: {source: {path: a, revision: b}}}", "tuned.m.source.revision", "with hub"),
        ("datasets: {wikipedia: {wheel: null}}", "datasets.wikipedia.platform", "goes with wheel"),
        ("tuned: {mine: {source: {url: 'https://a/b'}}}", "tuned.mine.source.sha256", "url needs"),
        ("datasets: {x: {format: lines}}", "datasets.x.files", "this key is missing"),
        # what a kind of scorer, direction or pairs needs
        ("scorers: {x: {kind: lexicon, threshold: 0}}", "scorers.x.source", "lexicon needs it"),
        (
            "scorers: {x: {kind: detoxify, threshold: 0, source: {path: a}}}",
            "scorers.x.configuration",
            "detoxify needs it",
        ),
        (
            "scorers: {lexicon: {label: toxic}}",
            "scorers.lexicon.label",
            "does not go with lexicon",
        ),
        ("sampling: {scorer: lexikon}", "sampling.scorer", "did you mean 'lexicon'?"),
        ("directions: {svd: {of: null}}", "directions.svd.of", "svd needs it"),
        ("directions: {svd: {of: svd}}", "directions.svd.of", "is itself an svd"),
        ("directions: {probe: {of: svd}}", "directions.probe.of", "does not go with probe"),
        ("directions: {probe: {texts: wikipedi}}", "directions.probe.texts", "'wikipedia'?"),
        ("directions: {probe: {texts: wikipedia}}", "directions.probe.label", "need it"),
        ("directions: {probe: {label: toxic}}", "directions.probe.label", "not go with samples"),
        ("directions: {probe: {layer: 30}}", "directions.probe.layer", "has layers 0 to 29"),
        ("attribution: {directions: [prob]}", "attribution.directions[0]", "mean 'probe'?"),
        (
            "experiments: {tuning-free: {interventions: {steer-svd-50: "
            "[{operation: subtract, direction: svdd, layer: 0, scale: 5}]}}}",
            "experiments.tuning-free.interventions.steer-svd-50[0].direction",
            "there is no direction 'svdd'; did you mean 'svd'?",
        ),
        (
            "datasets: {samples: {files: [{path: x}], format: lines}}",
            "datasets.samples",
            "rename it",
        ),
        ("preferences: {method: ready}", "preferences.dataset", "ready needs it"),
        ("preferences: {dataset: wikipedia}", "preferences.dataset", "does not go with sampled"),
        (
            "preferences: {method: ready, dataset: sampling-prompts, margin: null}",
            "preferences.dataset",
            "lines has no pairs",
        ),
        (
            "preferences: {method: steered, direction: svd}",
            "preferences.direction",
            "svd gives no probabilities",
        ),
        ("preferences: {method: steered, number: 256}\nshards: 2", "shards", "batches of prefer"),
        (
            "tuned: {mine: {source: {wheel: a==1, files: [{path: b}]}}}",
            "tuned.mine.source.files[0].sha256",
            "this key is missing",
        ),
        (
            "datasets: {x: {wheel: a==1, files: [{path: b}], format: lines}}",
            "datasets.x.files[0].sha256",
            "this key is missing",
        ),
        ("tuned: {dpo: {source: {path: x}}}", "tuned.dpo", "give either source, or method"),
        ("tuned: {mine: {beta: 0.1}}", "tuned.mine", "give either source, or method"),
        ("tuned: {dpo: {method: simpo}}", "tuned.dpo.target_margin", "simpo needs it"),
        ("tuned: {dpo: {target_margin: 1}}", "tuned.dpo.target_margin", "does not go with dpo"),
        ("tuned: {dpo: {gpus: 3}}", "tuned.dpo.gpus", "cannot share a batch of 8 pairs evenly"),
        ("tuned: {base: {source: {path: x}}}", "tuned.base", "the name base is taken"),
        (
            NONE + "{x: [{select: {top: 3, groups: [TP-]}, operation: zero}]}}}",
            "experiments.ablation.interventions.x[0].select",
            "exactly one of top, groups, neurons, file, random",
        ),
        (
            NONE + "{x: [{select: {groups: [TP-], activated: positive}, operation: zero}]}}}",
            "experiments.ablation.interventions.x[0].select.activated",
            "does not go with groups",
        ),
        (
            NONE + "{x: [{select: {random: {top: 3}}, operation: zero}]}}}",
            "experiments.ablation.interventions.x[0].select.seed",
            "this key is missing (random needs it)",
        ),
        (
            NONE + "{x: [{select: {top: 3, seed: 1}, operation: zero}]}}}",
            "experiments.ablation.interventions.x[0].select.seed",
            "does not go with top",
        ),
        (
            NONE + "{x: [{select: {top: 3}, operation: scale}]}}}",
            "experiments.ablation.interventions.x[0].factor",
            "this key is missing",
        ),
        (
            NONE + "{x: [{select: {top: 3}, operation: zero, factor: 2}]}}}",
            "experiments.ablation.interventions.x[0].factor",
            "does not go with zero",
        ),
        # datasets that are not there, or of no use
        ("corpus: {dataset: wikipedi}", "corpus.dataset", "did you mean 'wikipedia'?"),
        ("corpus: {continued: wikipedi}", "corpus.continued", "did you mean 'wikipedia'?"),
        (
            "published: {source: x, interventions: {ablation: {ablate-10: {f1: 0.1}}}}",
            "published.interventions.ablation.ablate-10",
            "there is no intervention 'ablate-10'; did you mean 'ablate-100'?",
        ),
        (
            "published: {source: x, interventions: {editing-search: {none: {f1: 0.1}}}}",
            "published.interventions.editing-search",
            "there is no experiment of this name that is reported",
        ),
        ("prompts: {train: {dataset: nowhere}}", "prompts.train.dataset", "'nowhere'"),
        (
            "prompts: {evaluation: {exclude: [challenge-prompt]}}",
            "prompts.evaluation.exclude[0]",
            "did you mean 'challenge-prompts'?",
        ),
        ("prompts: {train: {dataset: wikipedia}}", "prompts.train.dataset", "articles"),
        # baselines
        (
            "experiments: {tuning-free: {interventions: {none: []}}}",
            "experiments",
            "experiments.ablation.interventions.none and experiments.tuning-free.interventions",
        ),
        (NONE + "{none: null}}}", "experiments", "of the state base is missing"),
        (
            NONE + "{none: [{select: {top: 3}, operation: zero}]}}}",
            "experiments.ablation.interventions.none",
            "none is the baseline and has no edits",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_key(overlay, key, said):
    lines = problems(overlay)
    assert any(line.startswith(f"{key}: ") and said in line for line in lines), lines


def test_all_problems_are_said_at_once_and_each_once():
    lines = problems(
        "sed: 1\nscorers: {x: {kind: x, threshold: 0}}\nmodel: {layers: null, neurons: null}"
    )
    assert len(lines) == len(set(lines)) == 4


def test_a_version_named_like_the_model_is_refused():
    """Both would be fetched into the same folder: the model would be compared with itself."""
    assert any(
        line.startswith("tuned.smollm2-135m: ")
        for line in problems("tuned: {smollm2-135m: {source: {path: x}}}")
    )


def test_further_seeds_make_replicas():
    config = overlaid("tuned: {dpo: {seeds: [1, 7]}, mine: {source: {path: x}}}")
    expanded = with_replicas(config)
    assert list(expanded["tuned"]) == ["dpo", "dpo-seed1", "dpo-seed7", "mine"]
    for seed in (1, 7):
        replica = DEFAULT["tuned"]["dpo"] | {"seed": seed, "replica_of": "dpo"}
        assert expanded["tuned"][f"dpo-seed{seed}"] == replica
    for version in ("dpo", "mine"):
        assert expanded["tuned"][version] == config["tuned"][version]
    assert list(config["tuned"]) == ["dpo", "mine"]  # what was given stays as it was
    assert {**expanded, "tuned": config["tuned"]} == config


def test_without_further_seeds_nothing_is_added():
    config = without_nulls(DEFAULT)
    assert with_replicas(config) == config


@pytest.mark.parametrize(
    ("overlay", "key", "said"),
    [
        ("{dpo: {seeds: [1, 1]}}", "tuned.dpo.seeds", "non-unique"),
        ("{dpo: {seeds: []}}", "tuned.dpo.seeds", ""),
        ("{dpo: {seeds: [-1]}}", "tuned.dpo.seeds[0]", "less than the minimum"),
        ("{dpo: {seeds: 2}}", "tuned.dpo.seeds", "not of type 'array'"),
        ("{dpo: {seeds: [2, 0]}}", "tuned.dpo.seeds[1]", "0 is the seed of the version itself"),
        (
            "{dpo: {seeds: [1, 2]}, dpo-seed2: {source: {path: x}}}",
            "tuned.dpo.seeds[1]",
            "the name dpo-seed2, which is taken",
        ),
        (
            "{mine: {source: {path: x}, seeds: [1]}}",
            "tuned.mine.seeds",
            "a model from a source is not tuned",
        ),
        ("{dpo: {replica_of: mine}}", "tuned.dpo.replica_of", "unknown key"),
    ],
)
def test_wrong_seeds_are_refused(overlay, key, said):
    lines = problems(f"tuned: {overlay}")
    assert any(line.startswith(f"{key}: ") and said in line for line in lines), lines


def test_a_replica_named_like_the_model_is_refused():
    (line,) = problems("{model: {name: dpo-seed3}, tuned: {dpo: {seeds: [3]}}}")
    assert line.startswith("tuned.dpo.seeds[0]: ")


def test_null_removes_what_the_default_study_has():
    config = overlaid(
        "tuned: {dpo: null, mine: {source: {path: x}}}\n"
        "experiments: {unalignment: {interventions: {scale-keys-5: null}}}\n"
        "model: {source: {wheel: null, files: null, path: x}}"
    )
    assert list(config["tuned"]) == ["mine"]
    assert "scale-keys-5" not in config["experiments"]["unalignment"]["interventions"]
    assert config["model"]["source"] == {"path": "x"}
    assert config["prompts"]["train"] == DEFAULT["prompts"]["train"]


def test_nulls_go_and_what_counts_as_false_stays():
    config = {"a": None, "b": {"c": None, "d": 0, "e": [], "f": False, "g": ""}, "h": [1, None]}
    assert without_nulls(config) == {"b": {"d": 0, "e": [], "f": False, "g": ""}, "h": [1, None]}
    assert "a" in config


LOCAL = """
datasets:
  mine: {{files: [{{path: {path}}}], format: jsonl, text_field: prompt}}
prompts:
  train: {{dataset: mine, number: {number}, exclude: null}}
  analysis: {{dataset: mine, number: 1}}
  evaluation: {{dataset: mine, number: 1}}
"""


def check_local(path, number=1):
    config = overlaid(LOCAL.format(path=path, number=number))
    check_configuration(config, SCHEMA)
    check_local_prompts(config)


def test_local_prompts_are_read_before_anything_runs(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "one"}\n{"prompt": "two"}\n{"prompt": "three"}\n')
    check_local(path)
    with pytest.raises(ValueError, match=r"prompts\..*\.number"):
        check_local(path, number=2)
    path.write_text('{"prompt": "one"}\n{"text": "two"}\n{"prompt": "three"}\n')
    with pytest.raises(ValueError, match=r"mine\.jsonl, line 2"):
        check_local(path)
    path.unlink()
    with pytest.raises(ValueError, match=r"datasets\.mine\.files: there is no file .*mine\.jsonl"):
        check_local(path)
