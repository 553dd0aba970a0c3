"""Write a study of your own to start from: a short overlay on the default study, with comments.

    python workflow/new_study.py path/to/my-model --tuned path/to/my-checkpoint

Run it where the study will be run: paths are written as they are given.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from neurondynamics.data.prompts import normalise, read_dataset  # noqa: E402
from neurondynamics.study.configuration import checked  # noqa: E402
from neurondynamics.study.schema import read_yaml  # noqa: E402
from neurondynamics.study.shape import worked_out  # noqa: E402

LONGEST = 30  # lines
HUB = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+)(?:@(.+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
FORMATS = {".txt": "lines", ".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}
FIELDS = ("text", "prompt")  # that hold the text of a prompt, whichever is there
NUMBERS = {"train": 450, "analysis": 200, "evaluation": 120}  # of prompts, at most
USES = {
    "train": "for pairs and directions",
    "analysis": "neurons are attributed on them",
    "evaluation": "interventions are measured on them",
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    place = "a folder, an archive or a GGUF file, or owner/name@revision on the Hugging Face hub"
    parser.add_argument("model", help=f"the model before tuning: {place}")
    parser.add_argument("--tuned", help="its tuned version, from the same; otherwise DPO makes one")
    parser.add_argument("--behaviour", default="toxicity", help="a noun (default %(default)s)")
    parser.add_argument("--adjective", help="what a text with much of it is, such as toxic")
    parser.add_argument("--prompts", help=f"your own, in {', '.join(FORMATS)}")
    parser.add_argument("--output", default="my-study.yaml", help="default %(default)s")
    options = parser.parse_args(arguments)
    if options.adjective is None and options.behaviour != "toxicity":
        parser.error("--behaviour needs --adjective: what a text with much of it is")
    try:
        text = study(options)
        checked([read_yaml(ROOT / "config.yaml"), yaml.safe_load(text)])
        with open(options.output, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        sys.exit(f"{options.output} exists; give another --output")
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(f"{options.output} is written. What it would do: {command('-n', options.output)}")


def command(option: str, output: str) -> str:
    return f"snakemake {option} --configfile {output}"


def study(options: argparse.Namespace) -> str:
    """Return the text of a study."""
    name, source = source_of(options.model)
    sections = [
        [
            f"# {name}, before and after tuning: a study of {options.behaviour}.",
            f"#   {command('--cores all', options.output)}",
            "# It changes the default study, config.yaml; workflow/studies/keys.md lists all keys.",
        ],
        [
            f"behaviour: {{name: {scalar(options.behaviour)}, "
            f"adjective: {scalar(options.adjective or 'toxic')}}} # as tables and figures name it"
        ],
        model_section(name, source, Path(options.model)),
        tuned_section(name, options.tuned),
        *prompt_sections(options.prompts),
        *(behaviour_sections() if options.behaviour != "toxicity" else []),
        ["generation: {batch_size: 64} # prompts at a time"],
    ]
    lines = sum(map(len, sections))
    between = "\n\n" if lines + len(sections) - 1 <= LONGEST else "\n"
    return between.join("\n".join(section) for section in sections) + "\n"


def source_of(given: str) -> tuple[str, str]:
    """Return the name of a model and its source, from a path or a name on the hub."""
    hub = HUB.fullmatch(given)
    if Path(given).exists():
        return named(Path(given).resolve().stem), f"{{path: {scalar(given)}}}"
    if not hub:
        raise ValueError(f"there is no {given}; a repository on the hub is called owner/name")
    repository, revision = hub[1], hub[2] or "main"
    if not COMMIT.fullmatch(revision):
        from neurondynamics.fetching.hub import download_snapshot  # which takes a while to import

        files = ["config.json", "adapter_config.json"]
        revision = download_snapshot(repository, revision, "model", files).name
    return named(repository.split("/")[1]), f"{{hub: {repository}, revision: {scalar(revision)}}}"


def named(text: str) -> str:
    """Return a name that can be part of file names."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).lstrip("._+-").lower() or "my-model"


def scalar(text: str) -> str:
    """Return a text as YAML reads it back."""
    plain = re.fullmatch(r"[\w./+ -]+", text) and yaml.safe_load(f"[{text}]") == [text]
    return text if plain else json.dumps(text, ensure_ascii=False)


def model_section(name: str, source: str, path: Path) -> list[str]:
    lines = [
        "model:",
        f"  name: {scalar(name)} # names the folder under results/",
        f"  source: {source}",
        "  dtype: float32 # or bfloat16",
    ]
    if path.suffix != ".gguf":
        lines[0] += " # its shape, from which memory is worked out, is read from its config.json"
        return lines
    lines[0] += " # with its shape, from which memory is worked out"
    return lines + [f"  {k}: {v}" for k, v in worked_out(path.parent, path.name).items()]


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


def behaviour_sections() -> list[list[str]]:
    return [
        [
            "scorers: # what says how strongly a text shows it: put your own here, more than one",
            "  profanity-check: null",
            "  lexicon: {source: {path: words.csv}} # a CSV of text,severity_rating",
            "  classifier: # in Hugging Face's format, and the label that is the score",
            "    {kind: classifier, source: {path: my-classifier}, label: LABEL, threshold: 0.5}",
            "sampling: {scorer: classifier} # labels the samples of pairs and directions",
        ],
        ["directions: {embeddings: {words: {toward: [awful], away: [great]}}} # words of your own"],
    ]


if __name__ == "__main__":
    main()
