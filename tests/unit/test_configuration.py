"""The default study passes; whatever is wrong with another is said with its key."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from neurondynamics.study.configuration import checked, labeller_first, with_replicas
from neurondynamics.study.costs import HEADS, SHAPE
from neurondynamics.study.interventions import MEASURED, measures_of
from neurondynamics.study.rankings import with_rankings
from neurondynamics.study.schema import ORIGINS, kinds_of, read_schema

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
STUDIES = sorted((ROOT / "workflow" / "studies").glob("*.yaml"))
PAPER = ("gpt2-medium", "llama-3.1-8b", "gemma-2-2b", "mistral-7b")
GUIDES = [ROOT / "README.md", ROOT / "workflow" / "studies" / "README.md"]
EXAMPLES = [
    (guide, number, overlay)
    for guide in GUIDES
    if guide.exists()
    for number, overlay in enumerate(
        re.findall(r"```yaml\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    )
]


def overlaid(*texts):
    """The study that overlays make of the default one, as a job parses it."""
    return checked([DEFAULT, *map(yaml.safe_load, texts)], main_process=False)


def problems(text):
    """The lines that an overlay on the default study is refused with."""
    with pytest.raises(ValueError, match="the configuration is wrong") as caught:
        overlaid(text)
    return [line.removeprefix("- ") for line in str(caught.value).splitlines()[1:]]


def test_the_default_study_passes():
    assert checked([DEFAULT]) == with_rankings(DEFAULT)


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_every_study_passes(study):
    shared = [study.with_name("paper.yaml").read_text()] if study.stem in PAPER else []
    overlaid(*shared, study.read_text())


def test_the_studies_of_the_paper_are_told_apart():
    assert {study.stem for study in STUDIES} == {*PAPER, "paper", "smoke", "seeds", "full"}
    for study in STUDIES:
        (command,) = re.findall(
            r"--configfile (.+?)(?: --directory .+)?$", study.read_text(), re.M
        )[:1]
        of_paper = study.stem in PAPER or study.stem == "paper"
        assert ("workflow/studies/paper.yaml workflow/studies/" in command) == of_paper
        assert of_paper or command == f"workflow/studies/{study.name}"
        assert study.stem not in PAPER or command.endswith(f"/{study.name}")


def test_the_guides_have_examples():
    assert len(EXAMPLES) >= 7


@pytest.mark.parametrize(
    ("guide", "number", "overlay"),
    EXAMPLES,
    ids=lambda value: getattr(value, "parent", value) if isinstance(value, Path | int) else "",
)
def test_every_overlay_of_the_guides_passes(guide, number, overlay, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = (yaml.safe_load(overlay) or {}).get("model", {})
    if "path" in model.get("source", {}):  # a folder whose shape is known already
        described = tmp_path / model["source"]["path"] / "config.json"
        described.parent.mkdir(parents=True)
        described.write_text("{}")
        digest = hashlib.sha256(b"{}").hexdigest()
        (tmp_path / "resources" / "shapes").mkdir(parents=True)
        shape = {key: DEFAULT["model"][key] for key in (*SHAPE, *HEADS)} | {"positions": 2048}
        (tmp_path / "resources" / "shapes" / f"{digest}.json").write_text(json.dumps(shape))
    overlaid(overlay)


NONE = "experiments: {ablation: {interventions: "
STEERED = (
    "preferences: {{method: steered, maximum: 9, dataset: sampling-prompts, number: 256, "
    "prompt_tokens: 9, new_tokens: 9, direction: {}, step_size: 1, temperature: 1, top_k: 1, "
    "iterations: 1, horizon: 1, gamma: 1, gm_scale: 1, kl_scale: 0}}"
)


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
        # names that were changed
        ("claims: {anti_toxic: x}", "claims.anti_toxic", "is called anti now"),
        (
            NONE + "{x: [{select: {top: 3}, operation: edit, factor: 2}]}}}",
            "experiments.ablation.interventions.x[0].operation",
            "'edit' is called rescale now",
        ),
        ("scorers: {x: {kind: [lexicon], threshold: 0}}", "scorers.x.kind", "is unknown"),
        (
            NONE + "{x: [{select: {top: 3}, operation: [zero]}]}}}",
            "experiments.ablation.interventions.x[0].operation",
            "['zero'] is unknown",
        ),
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
        ("model: {layers: null, width: null}", "model", "keys are missing: layers, width. They"),
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
        ("model: {source: {path: x}}", "model.name", "this key is missing"),
        ("model: {name: x, source: {path: x}}", "model.source.path", "there is no x"),
        ("model: {name: x, source: {hub: a/b, revision: c}}", "model.source", "is missing, which"),
        ("model: {name: x, source: {files: []}}", "model.source.files", ""),
        (
            "model: {source: {wheel: null, files: null}}",
            "model.source",
            "exactly one of wheel, hub, url, path, not none of them",
        ),
        ("tuned: {m: {source: {wheel: a==1}}}", "tuned.m.source.files", "wheel needs it"),
        (
            "model: {name: x, source: {path: x, files: [{path: y}]}}",
            "model.source.files",
            "not go with path",
        ),
        (
            "tuned: {mine: {source: {path: x, wheel: a==1, files: [{path: b}]}}}",
            "tuned.mine.source",
            "give exactly one of wheel, hub, url, path, not wheel and path",
        ),
        ("tuned: {mine: {source: {hub: a/b}}}", "tuned.mine.source.revision", "hub needs it"),
        ("tuned: {m: {source: {path: a, revision: b}}}", "tuned.m.source.revision", "with path"),
        ("datasets: {wikipedia: {wheel: null}}", "datasets.wikipedia.platform", "with files of"),
        ("datasets: {x: {hub: a/b, revision: c, format: lines}}", "datasets.x.files", "hub needs"),
        (
            "datasets: {x: {hub: a/b, url: 'https://a/b', format: lines}}",
            "datasets.x",
            "one of wheel, hub, url, not hub and url",
        ),
        (
            f"tuned: {{m: {{source: {{url: 'https://a/?x=b', sha256: {'a' * 64}}}}}}}",
            "tuned.m.source.url",
            "https://a/ does not end in the name of a file",
        ),
        (
            f"tuned: {{m: {{source: {{url: ftp://a/b, sha256: {'a' * 64}}}}}}}",
            "tuned.m.source.url",
            "ftp://a/b: only http and https URLs are downloaded",
        ),
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
        ("preferences: {method: ready, maximum: 9}", "preferences.dataset", "ready needs it"),
        ("preferences: {dataset: wikipedia}", "preferences.dataset", "does not go with sampled"),
        (
            "preferences: {method: ready, dataset: sampling-prompts, maximum: 9}",
            "preferences.dataset",
            "lines has no pairs",
        ),
        (
            STEERED.format("svd"),
            "preferences.direction",
            "svd gives no probabilities",
        ),
        (STEERED.format("probe") + "\nshards: 2", "shards", "batches of prefer"),
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
        ("tuned: {m: {source: {path: x}, method: dpo}}", "tuned.m", "either source, or method"),
        ("tuned: {mine: {beta: 0.1}}", "tuned.mine", "give either source, or method and its hyper"),
        ("tuned: {m: {source: {path: x}, beta: 1}}", "tuned.m.beta", "does not go with source"),
        ("tuned: {dpo: {method: simpo}}", "tuned.dpo.target_margin", "simpo needs it"),
        ("tuned: {dpo: {target_margin: 1}}", "tuned.dpo.target_margin", "does not go with dpo"),
        ("tuned: {dpo: {gpus: 3}}", "tuned.dpo.gpus", "cannot share a batch of 8 pairs evenly"),
        ("tuned: {base: {source: {path: x}}}", "tuned.base", "the name base is taken"),
        (
            NONE + "{x: [{select: {top: 3, groups: [TP-]}, operation: zero}]}}}",
            "experiments.ablation.interventions.x[0].select",
            "exactly one of top, groups, neurons, heads, key_values, modules, file, random",
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
            "top draws nothing but by: random",
        ),
        (
            NONE + "{x: [{select: {top: 200%}, operation: zero}]}}}",
            "experiments.ablation.interventions.x[0].select.top",
            "200%",
        ),
        (
            NONE + "{x: [{select: {top: 1%, of: blocks, by: change}, operation: transplant}]}}}",
            "experiments.ablation.interventions.x[0].select.by",
            "key/value heads have no change",
        ),
        (
            "gradients: null",
            "rankings",
            "what units weigh is measured with `gradients`; drop rankings with null too",
        ),
        (
            "{gradients: null, rankings: null, experiments: {ablation: {interventions: {x: "
            "[{select: {top: 9, by: gradient_patch}, operation: zero}]}}}}",
            "experiments.ablation.interventions.x[0].select.by",
            "gradient_patch is measured where the key `gradients` says",
        ),
        (
            "rankings: {curves: [{operation: patch, of: blocks, by: [random]}]}",
            "rankings.curves[0].of",
            "only a transplant moves",
        ),
        (
            "rankings: {curves: [{operation: patch, of: heads, by: [change, cosine]}]}",
            "rankings.curves[0].by[1]",
            "heads have no cosine",
        ),
        ("rankings: {percent: [1, 1.0]}", "rankings.percent", "listed twice"),
        ("rankings: {percent: [0]}", "rankings.percent[0]", "0"),
        (
            "experiments: {rankings: {state: base, interventions: {x: []}}}",
            "experiments.rankings",
            "this is the name of those of the key `rankings`",
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
        (
            NONE + "{x: [{select: {top: 3}, operation: rescale, factor: 2, mode: paired}]}}}",
            "experiments.ablation.interventions.x[0].mode",
            "'paired' does not go with rescale; known are mean, shift",
        ),
        (
            NONE + "{x: [{select: {groups: [TP], fraction: 0.5}, operation: zero}]}}}",
            "experiments.ablation.interventions.x[0].select.ranked",
            "this key is missing (fraction needs it)",
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
        ("prompts: {train: {dataset: a, number: 2}}", "prompts.train.dataset", "no dataset 'a'"),
        (
            "prompts: {evaluation: {exclude: [challenge-prompt]}}",
            "prompts.evaluation.exclude[0]",
            "did you mean 'challenge-prompts'?",
        ),
        ("prompts: {train: {dataset: wikipedia, number: 2}}", "prompts.train.dataset", "articles"),
        # what would be measured to no end
        (
            "experiments: {nearness: {controls: {random: 1}}}",
            "experiments.nearness.controls",
            "identity changes nothing, and so would its controls",
        ),
        (
            "experiments: {modules: {controls: {random: 1}}}",
            "experiments.modules.controls.random",
            "mlp edits all units of its layers, and so would its control",
        ),
        (
            "experiments: {weights: {interventions: {x: "
            "[{operation: transplant, parts: [mlp], factor: 0}]}}}",
            "experiments.weights.interventions.x[0].factor",
            "0 moves nothing",
        ),
        (
            "experiments: {weights: {interventions: {x: "
            "[{operation: transplant, select: {key_values: [[0, 3]]}}]}}}",
            "experiments.weights.interventions.x[0].select.key_values[0]",
            "no key/value head 3 in layer 0; the model has layers 0 to 29, each with key/value "
            "heads 0 to 2",
        ),
        # baselines
        (
            "experiments: {tuning-free: {interventions: {none: []}}}",
            "experiments",
            "experiments.tuning-free.interventions.none and experiments.ablation.interventions",
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
        "sed: 1\nscorers: {x: {kind: x, threshold: 0}}\ncorpus: {windows: null, dataset: null}"
    )
    assert len(lines) == len(set(lines)) == 4


def test_an_old_name_is_said_once():
    assert len(problems("claims: {anti_toxic: mean-AN-, anti: null}")) == 1
    old = "{x: [{select: {top: 3}, operation: edit, factor: 2}]}}}"
    assert len(problems(NONE + old)) == 1


def test_every_key_is_described():
    """But for mappings whose names are of one's choice, and what they refer to."""

    def undescribed(part, key):
        for name, inner in part.get("properties", {}).items():
            if "description" not in inner and "$ref" not in inner:
                yield f"{key}.{name}"
            yield from undescribed(inner, f"{key}.{name}")
        for inner in (part.get("additionalProperties"), part.get("items")):
            if isinstance(inner, dict):
                yield from undescribed(inner, key)

    schema = read_schema()
    wheres = {".datasets.where.minimum", ".datasets.where.maximum"}
    found = set(undescribed(schema, ""))
    for name, part in schema["$defs"].items():
        found |= set(undescribed(part, name))
    assert found - wheres == set()


def test_kinds_are_said_in_the_schema():
    assert ORIGINS == ("wheel", "hub", "url", "path")
    assert kinds_of(read_schema()["$defs"]["step"])[-1] == "transplant"


def test_the_scorer_that_labels_comes_first():
    config = overlaid("sampling: {scorer: lexicon}")
    assert list(config["scorers"]) == ["lexicon", "profanity-check"]
    assert labeller_first(config) == config


def test_a_version_named_like_the_model_is_refused():
    """Both would be fetched into the same folder: the model would be compared with itself."""
    assert any(
        line.startswith("tuned.smollm2-135m: ")
        for line in problems("tuned: {smollm2-135m: {source: {path: x}}}")
    )


def test_null_lets_everything_be_measured():
    config = overlaid("experiments: {nearness-of-neurons: {measures: null}}")
    assert measures_of(config["experiments"]["nearness-of-neurons"]) == MEASURED


def test_further_seeds_make_replicas():
    config = overlaid("tuned: {dpo: {seeds: [1, 7]}, mine: {source: {path: x}}}")
    assert list(config["tuned"]) == ["dpo", "dpo-seed1", "dpo-seed7", "mine"]
    for seed in (1, 7):
        replica = DEFAULT["tuned"]["dpo"] | {"seed": seed, "replica_of": "dpo"}
        assert config["tuned"][f"dpo-seed{seed}"] == replica
    assert config["tuned"]["mine"] == {"source": {"path": "x"}}
    assert {**config, "tuned": DEFAULT["tuned"]} == with_rankings(DEFAULT)


def test_what_was_given_stays_as_it_was():
    config = {"tuned": {"dpo": {"method": "dpo", "seeds": [1]}}}
    assert list(with_replicas(config)["tuned"]) == ["dpo", "dpo-seed1"]
    assert config == {"tuned": {"dpo": {"method": "dpo", "seeds": [1]}}}


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
            "does not go with source",
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


LOCAL = """
datasets:
  mine: {{files: [{{path: {path}}}], format: jsonl, text_field: prompt}}
prompts:
  train: {{dataset: mine, number: {number}}}
  analysis: {{dataset: mine, number: 2}}
  evaluation: {{dataset: mine, number: 2}}
"""


def check_local(path, number=2):
    checked([DEFAULT, yaml.safe_load(LOCAL.format(path=path, number=number))])


def test_local_prompts_are_read_before_anything_runs(tmp_path):
    path = tmp_path / "mine.jsonl"
    lines = [f'{{"prompt": "number {n}"}}\n' for n in range(6)]
    path.write_text("".join(lines))
    check_local(path)
    with pytest.raises(ValueError, match=r"prompts\..*\.number"):
        check_local(path, number=3)
    path.write_text("".join([lines[0], '{"text": "two"}\n', *lines[2:]]))
    with pytest.raises(ValueError, match=r"mine\.jsonl, line 2"):
        check_local(path)
    path.unlink()
    with pytest.raises(ValueError, match=r"datasets\.mine\.files: there is no file .*mine\.jsonl"):
        check_local(path)


SNAKEFILE = f"""
import json, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "workflow" / "scripts")!r})
from neurondynamics.study.configuration import layers
DEFAULT = Path(str(workflow.current_basedir)) / "config.yaml"
configfile: DEFAULT
given = layers(workflow, config, DEFAULT)
sys.stderr.write("LAYERS " + json.dumps([workflow.is_main_process, given]) + chr(10))
rule one:
    output: "one"
    script: "one.py"
"""
OUTER = """
module inner:
    snakefile: "Snakefile"
    config: {"whole": True}
use rule one from inner as inner_one
"""


@pytest.fixture
def layers_of(tmp_path):
    """A function that gives what `layers` finds in a run of snakemake with some options."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "outer.smk").write_text(OUTER)
    (tmp_path / "one.py").write_text("open(snakemake.output[0], 'w').close()")
    (tmp_path / "config.yaml").write_text("a: {b: 1}")
    (tmp_path / "first.yaml").write_text("a: {c: 2, b: null}")
    (tmp_path / "second.yaml").write_text("a: {b: {d: 3}}")

    def found(*options):
        command = [sys.executable, "-m", "snakemake", "--cores", "1", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (line,) = re.findall("^LAYERS (.+)$", done.stderr, re.M)
        return json.loads(line)

    return found


OVERLAYS = ["--configfile", "first.yaml", "second.yaml", "--config", "seed=9", "more={y: z}"]


def test_layers_are_told_apart_in_the_main_process(layers_of):
    expected = [
        {"a": {"b": 1}},
        {"a": {"c": 2, "b": None}},
        {"a": {"b": {"d": 3}}},
        {"seed": 9, "more": {"y": "z"}},
    ]
    assert layers_of("-n", *OVERLAYS) == [True, expected]


def test_layers_are_told_apart_in_a_job(layers_of):
    """As a cluster runs it: in another process, with the files and values of the main one."""
    job = ["--mode", "remote", "--target-jobs", "one:", "--allowed-rules", "one", "--nolock"]
    main_process, layers = layers_of(*job, "--force", *OVERLAYS)
    assert not main_process
    assert [list(layer) for layer in layers] == [["a"], ["a"], ["a"], ["seed", "more"]]


def test_a_module_is_given_the_whole_study(layers_of):
    assert layers_of("-n", "-s", "outer.smk", "inner_one") == [True, [{"whole": True}]]
