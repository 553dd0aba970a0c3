"""Write a study of your own to start from: a short overlay on the default study, with comments.

    python workflow/new_study.py path/to/my-model --tuned path/to/my-checkpoint

Run it where the study will be run: paths are written as they are given.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from neurondynamics.data.prompts import normalise, read_dataset  # noqa: E402
from neurondynamics.fetching import archives  # noqa: E402
from neurondynamics.study.configuration import checked  # noqa: E402
from neurondynamics.study.costs import HEADS, SHAPE  # noqa: E402
from neurondynamics.study.loader import parse, read_yaml  # noqa: E402
from neurondynamics.study.shape import NAME, with_shape, worked_out  # noqa: E402

LONGEST = 30  # lines
HUB = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+)(?:@(.+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
ENDINGS = (".gguf", *archives.SUFFIXES)  # of models that are one file
FORMATS = {".txt": "lines", ".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}
FIELDS = ("text", "prompt")  # that hold the text of a prompt, whichever is there
NUMBERS = {"train": 450, "analysis": 200, "evaluation": 120}  # of prompts, at most
USES = {
    "train": "for pairs and directions",
    "analysis": "neurons are attributed on them",
    "evaluation": "interventions are measured on them",
}
TOXICITY = "toxicity"  # the behaviour of the default study
LEXICON, CLASSIFIER = "words.csv", "my-classifier"  # what another behaviour's scorers are made of
IN_PLACE = f"put {LEXICON} (text,severity_rating) and {CLASSIFIER} here, or name yours in scorers"
ACTIVATED = 0.25  # of all neurons, those of one sign that may well be there


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    place = "a folder, an archive or a GGUF file, or owner/name@revision on the Hugging Face hub"
    parser.add_argument("model", help=f"the model before tuning: {place}")
    parser.add_argument("--tuned", help="its tuned version, from the same; otherwise DPO makes one")
    parser.add_argument("--behaviour", help=f"a noun, with --adjective (default {TOXICITY})")
    parser.add_argument("--adjective", help="what a text with much of it is, such as toxic")
    parser.add_argument("--prompts", help=f"your own, in {', '.join(FORMATS)}")
    parser.add_argument("--output", default="my-study.yaml", help="default %(default)s")
    options = parser.parse_args(arguments)
    if options.adjective is None and options.behaviour not in (None, TOXICITY):
        parser.error("--behaviour needs --adjective: what a text with much of it is")
    if options.adjective is not None and options.behaviour is None:
        parser.error("--adjective needs --behaviour: the noun that it goes with")
    options.behaviour = options.behaviour or TOXICITY
    default = read_yaml(ROOT / "config.yaml")
    try:
        text = study(options, default)
        checked([default, parse(text, options.output)], absent=(LEXICON, CLASSIFIER))
        with open(options.output, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        sys.exit(f"{options.output} exists; give another --output")
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(f"{options.output} is written.")
    if options.behaviour != TOXICITY:
        print(f"First {IN_PLACE}.")
    print(f"What it would do: {command('-n', options.output)}")


def command(option: str, output: str) -> str:
    return f"snakemake {option} --configfile {shlex.quote(output)}"


def study(options: argparse.Namespace, default: dict) -> str:
    """Return the text of a study."""
    name, source = source_of(options.model)
    model, shape = model_section(name, source, Path(options.model))
    another = options.behaviour != TOXICITY
    words = f"name: {scalar(options.behaviour)}, adjective: {scalar(options.adjective or 'toxic')}"
    sections = [
        [
            f"# {name}, before and after tuning: a study of {options.behaviour}.",
            f"#   {command('--cores all', options.output)}",
            "# It changes the default study, config.yaml; workflow/studies/keys.md lists all keys.",
            *([f"# First {IN_PLACE}."] if another else []),
        ],
        [f"behaviour: {{{words}}} # as tables and figures name it"],
        model,
        tuned_section(name, options.tuned),
        *prompt_sections(options.prompts),
        *([scorer_section()] if another else []),
        direction_section(another, shape["layers"] * shape["neurons"], default["directions"]),
        *smaller_sections(shape, default),
        ["generation: {batch_size: 64} # prompts at a time"],
    ]
    sections = list(filter(None, sections))
    between = "\n\n" if sum(map(len, sections)) + len(sections) - 1 <= LONGEST else "\n"
    return between.join("\n".join(section) for section in sections) + "\n"


def source_of(given: str) -> tuple[str, str]:
    """Return the name of a model and its source, from a path or a name on the hub."""
    if Path(given).exists():
        name = Path(given).resolve().name
        ending = next((end for end in ENDINGS if name.lower().endswith(end)), "")
        return named(name[: len(name) - len(ending)]), f"{{path: {scalar(given)}}}"
    if looks_like_path(given):
        raise ValueError(f"there is no such path: {given} (the hub's are called owner/name@main)")
    if not (hub := HUB.fullmatch(given)):
        raise ValueError(f"there is no {given}; a repository on the hub is called owner/name")
    repository, revision = hub[1], hub[2] or "main"
    if not COMMIT.fullmatch(revision):
        from neurondynamics.fetching.hub import download_snapshot  # which takes a while to import

        say_asked(repository, revision)
        files = [NAME, "adapter_config.json"]
        revision = download_snapshot(repository, revision, "model", files).name
    return named(repository.split("/")[1]), f"{{hub: {repository}, revision: {scalar(revision)}}}"


def looks_like_path(given: str) -> bool:
    """Tell a path from a name on the hub, which has one slash, and a revision where it is ours."""
    place, _, revision = given.partition("@")
    owner, *rest = place.split("/")
    started = given.startswith((".", "/", "~")) or len(rest) > 1 or "\\" in place
    ended = place.lower().endswith(ENDINGS)
    return started or ended or (bool(rest) and not revision and Path(owner).is_dir())


def say_asked(repository: str, revision: str) -> None:
    print(f"Asking the Hugging Face hub for {repository} at {revision}", file=sys.stderr)


def named(text: str) -> str:
    """Return a name that can be part of file names."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).lstrip("._+-").lower() or "my-model"


def scalar(text: str) -> str:
    """Return a text as YAML reads it back."""
    plain = re.fullmatch(r"[\w./+ -]+", text) and yaml.safe_load(f"[{text}]") == [text]
    return text if plain else json.dumps(text, ensure_ascii=False)


def model_section(name: str, source: str, path: Path) -> tuple[list[str], dict[str, int]]:
    """Return the section of the model, stating its shape if it is one file, and its shape."""
    if path.is_file() and path.name.lower().endswith(ENDINGS):
        packed = archives.is_archive(path)
        shape = in_archive(path) if packed else worked_out(path.parent, path.name)
        return [
            "model: # with its shape, from which memory is worked out",
            f"  {{name: {scalar(name)}, # names the folder under results/",
            f"  source: {source},",
            "  dtype: float32, # or bfloat16",
            f"  {', '.join(f'{key}: {shape[key]}' for key in (*SHAPE, *HEADS))}}}",
        ], shape
    lines = [
        "model: # its shape, from which memory is worked out, is read from its config.json",
        f"  name: {scalar(name)} # names the folder under results/",
        f"  source: {source}",
        "  dtype: float32 # or bfloat16",
    ]
    model = parse("\n".join(lines), "model")["model"]
    if "hub" in model["source"]:
        say_asked(*model["source"].values())
    return lines, with_shape({"model": model}, main_process=True)["model"]


def in_archive(path: Path) -> dict[str, int]:
    """Return the shape that the config.json of a model in an archive describes."""
    with archives.opened(path) as members, TemporaryDirectory() as folder:
        found = [name for name in members if PurePosixPath(name).name == NAME]
        if not found:
            by_hand = f"state {', '.join(SHAPE)} by hand (workflow/studies/README.md says how)"
            raise ValueError(f"{path} holds no {NAME}: {by_hand}")
        described = min(found, key=lambda name: len(PurePosixPath(name).parts))
        archives.take_members(path, [described], Path(folder))
        try:
            return worked_out(Path(folder))
        except ValueError as error:
            said = str(error).replace(str(Path(folder, NAME)), f"{described} in {path}")
            raise ValueError(said) from error


def tuned_section(model: str, given: str | None) -> list[str]:
    if given is None:
        return [
            "tuned: # here, on pairs of the model's own continuations",
            "  dpo: {learning_rate: 2.0e-5, epochs: 1} # beside what config.yaml says",
        ]
    name, source = source_of(given)
    if name in (model, "base"):
        name += "-tuned"
    return [
        "tuned: # any number of versions, by name; a LoRA adapter is merged into the model",
        f"  {scalar(name)}: {{source: {source}}}",
    ]


def prompt_sections(path: str | None) -> list[list[str]]:
    comment = "prompts: # no text stands in two of these"
    if path is None:
        splits = {name: f"number: {number}" for name, number in NUMBERS.items()}
        datasets = []
    else:
        described, number = prompts_in(path)
        datasets = [
            ["datasets:", f"  my-prompts: {{files: [{{path: {scalar(path)}}}], {described}}}"]
        ]
        parts = {"train": number // 2, "analysis": number // 4, "evaluation": number // 4}
        numbers = {name: min(NUMBERS[name], part) for name, part in parts.items()}
        splits = {name: f"dataset: my-prompts, number: {part}" for name, part in numbers.items()}
    lines = [f"  {name}: {{{said}}} # {USES[name]}" for name, said in splits.items()]
    return [*datasets, [comment, *lines]]


def prompts_in(path: str) -> tuple[str, int]:
    """Return what the configuration says of a file of prompts, and how many it holds."""
    format_ = FORMATS.get(Path(path).suffix)
    if format_ is None:
        raise ValueError(f"{path}: prompts are in a file that ends in {', '.join(FORMATS)}")
    problems = []
    for field in FIELDS:
        try:
            prompts = read_dataset("my-prompts", [path], format_, field)
        except ValueError as error:
            problems.append(str(error))
            continue
        number = len({normalise(prompt.text) for prompt in prompts})
        if number < 4:
            raise ValueError(f"{path}: {number} different prompts are too few for three splits")
        said = f"format: {format_}" + (f", text_field: {field}" if format_ != "lines" else "")
        return said, number
    raise ValueError(problems[0])


def scorer_section() -> list[str]:
    return [
        "scorers: # what says how strongly a text shows it: put your own here, more than one",
        "  profanity-check: null",
        f"  lexicon: {{source: {{path: {LEXICON}}}}} # a CSV of text,severity_rating",
        f"  classifier: {{kind: classifier, source: {{path: {CLASSIFIER}}}, label: LABEL, "
        "threshold: 0.5} # in Hugging Face's format, and the label that is the score",
        "sampling: {scorer: classifier} # labels the samples of pairs and directions",
    ]


def direction_section(another: bool, number: int, default: dict) -> list[str]:
    """Return words of another behaviour, and fewer value vectors where a model has fewer."""
    changed = ["embeddings: {words: {toward: [awful], away: [great]}}"] if another else []
    large = [name for name, direction in default.items() if direction.get("number", 0) > number]
    said = ["words of your own"] * another + ["all value vectors there are"] * bool(large)
    changed += [f"{name}: {{number: {number}}}" for name in large]
    return [f"directions: {{{', '.join(changed)}}} # {'; '.join(said)}"] if changed else []


def smaller_sections(shape: dict, default: dict) -> list[list[str]]:
    """Return what a model of such a shape is too small for: lowered, or set to null."""
    units = {kind: shape["layers"] * shape[kind] for kind in ("neurons", "heads")}
    number = units["neurons"]
    most = [key for key in ("ablated", "decoded") if default["attribution"][key] > number]
    lowered = ", ".join(f"{key}: {number}" for key in most)
    lines, gone = [], []
    for name, experiment in default["experiments"].items():
        steps = experiment["interventions"]
        large = [f"{key}: null" for key in steps if too_large(steps[key], units)]
        if len(large) == len(steps):
            gone.append(name)
            lines.append(f"  {name}: null")
        elif large:
            lines.append(f"  {name}: {{interventions: {{{', '.join(large)}}}}}")
    said = f"without what {number} neurons may be too few for; claims on them are not tested"
    return [
        [f"attribution: {{{lowered}}} # all neurons there are"] if lowered else [],
        [f"experiments: # {said}", *lines] if lines else [],
        ["curve: null"] if default.get("curve") in gone else [],
    ]


def too_large(steps: list[dict] | dict, units: dict[str, int]) -> bool:
    """Tell whether an intervention selects more units than a model has, or may have of a sign."""
    named = [step.get("select", {}) for step in steps] if isinstance(steps, list) else []
    return any(
        one["top"] > units[one.get("of", "neurons")] * (ACTIVATED if "activated" in one else 1)
        for one in named
        if one.get("top", "all") != "all"
    )


if __name__ == "__main__":
    main()
