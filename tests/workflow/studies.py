"""A study that is small enough to run in a test, and the real snakemake command to run it with.

It is about another behaviour than the default study: negative sentiment, with labelled texts and
scorers of its own. The model is random and its vocabulary small, so it writes negative words by
chance.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import tiny
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "config.yaml", "workflow", "envs", "profiles")  # what snakemake reads
CLEAN = (
    *("the", "old", "house", "river", "cold", "wind", "north", "sea", "hill", "town"),
    *("dog", "man", "said", "and", "then", "was", "so"),
)
NEGATIVE = ("stupid", "awful", "damn", "boring", "sad", "terrible")
KINDS = ("dare", "taunt")  # of challenge prompts
ARTICLES = 6
DIRECTIONS = ("probe", "mean_difference", "embeddings", "svd", "reviews")
SCORERS = ("opinion", "profanity-check")
NOWHERE = "http://127.0.0.1:9"  # nothing listens there
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
LISTED = [[0, 3], [1, 7], [2, tiny.NEURONS - 1]]  # neurons, as layer and number
TOTAL = tiny.LAYERS * tiny.NEURONS


def act(select: dict, operation: str, **options) -> dict:
    """Return an edit of selected neurons."""
    return {"select": select, "operation": operation, **options}


def steer(direction: str, **options) -> dict:
    """Return an edit that subtracts a direction in the last layer."""
    place = {"layer": tiny.LAYERS - 1, "scale": 3.0}
    return {"operation": "subtract", "direction": direction, **place, **options}


def lower(alpha: float, **options) -> list[dict]:
    """Return the paper's editing without tuning, of half of the neurons of every quadrant."""
    toxic = {"groups": ["TP", "AN"], "fraction": 0.5, "ranked": "highest"}
    other = {"groups": ["AP", "TN"], "fraction": 0.5, "ranked": "lowest"}
    return [
        act(toxic, "rescale", factor=1 - alpha, **options),
        act(other, "rescale", factor=1 + alpha, **options),
    ]


PARTS_OF_A_MODEL = ["attention", "mlp", "norms", "final_norm", "embeddings", "unembedding"]


def whole(*modules, **among):
    """Every unit of modules follows the other model at every position."""
    select = {"modules": list(modules), **among}
    return act(select, "patch", mode="paired", positions="all")


EXPERIMENTS = {  # by other names than those of the default study, with which they would be merged
    "edits": {
        "state": "base",
        "interventions": {
            "none": [],
            "ablate-top": [act({"top": 4}, "zero")],
            "ablate-positive": [act({"top": 4, "activated": "positive"}, "zero")],
            "ablate-negative": [act({"top": 4, "activated": "negative"}, "zero")],
            "ablate-listed": [act({"neurons": LISTED}, "zero")],
            "invert-filed": [act({"file": "inputs/neurons.csv"}, "scale", factor=-1.0)],
            "patch-TP-": [act({"groups": ["TP-"]}, "patch")],
            "patch-AN-": [act({"groups": ["AN-"]}, "patch")],
            "patch-both": [act({"groups": ["TP-", "AN-"]}, "patch", mode="mean")],
            "shift-both": [act({"groups": ["TP-", "AN-"]}, "patch", mode="shift")],
            "control": [act({"random": {"groups": ["TP-"]}, "seed": 0}, "patch")],
            "unchanged": [act({"top": 4}, "scale", factor=1.0)],
            "lower-mean": lower(0.5),
            "lower-shift": lower(0.5, mode="shift"),
            "lower-best": {"best_of": "search"},
            **{f"steer-{name}": [steer(name)] for name in DIRECTIONS},
            # one that weights can express, so that it can be exported
            "everywhere": [
                act({"groups": ["TP-"]}, "patch", mode="shift", positions="all"),
                act({"top": 8}, "scale_keys", factor=3.0, positions="all"),
                steer("probe", positions="all"),
            ],
        },
    },
    "keys": {
        "state": "tuned",
        "interventions": {
            "none": [],
            "scale-keys": [act({"top": 2}, "scale_keys", factor=3.0)],
            "scale-values": [act({"top": 2}, "scale", factor=3.0)],
        },
    },
    "sites": {  # read, and not written under
        "state": "base",
        "measures": ["fidelity"],
        "margins": ["late"],
        "interventions": {
            "attention": [whole("attention")],
            "late": [whole("attention", "mlp", layers=[1, tiny.LAYERS - 1])],
        },
    },
    "units": {
        "state": "base",
        "measures": ["fidelity"],
        "controls": {"random": 1},
        "interventions": {
            "heads": [act({"heads": [[0, 1], [1, 0]]}, "patch", mode="paired")],
            "moved": [act({"top": 20, "of": "all", "by": "change"}, "patch", mode="shift")],
            "rescaled": [act({"top": 2, "of": "heads", "by": "reduction"}, "rescale", factor=0.5)],
        },
    },
    "back": {
        "state": "tuned",
        "measures": ["fidelity"],
        "margins": "all",
        "interventions": {
            "all": [whole("attention", "mlp")],
            "mean-TP-": [act({"groups": ["TP-"]}, "patch")],
            "weights": [act({"groups": ["TP-"]}, "transplant", factor=2.0)],
            "everything": [{"operation": "transplant", "parts": PARTS_OF_A_MODEL}],
            "projections": [
                act({"key_values": [[0, 0]]}, "transplant"),
                {"operation": "transplant", "parts": ["queries", "mlp_output"], "layers": "late"},
            ],
            "identity": [whole("attention", "mlp") | {"mode": "identity"}],
        },
    },
    "curve": {
        "state": "base",
        "controls": {"random": 2, "signs": 1},
        "interventions": {
            f"top-{n}": [act({"top": n, "by": "reduction"}, "patch", mode="paired")]
            for n in (1, 10, TOTAL)
        },
    },
    "search": {
        "state": "base",
        "search": {"perplexity": 2.0},
        "interventions": {"none": [], "weak": lower(0.1, mode="shift"), "strong": lower(0.9)},
    },
}
EXPORTED = "results/tiny/dpo/exported/edits/everywhere"


def sentence(number: int, words: int) -> str:
    """Return clean words in an order of this number's own."""
    digits = hashlib.sha256(str(number).encode()).digest()
    return " ".join(CLEAN[digit % len(CLEAN)] for digit in digits[:words])


def write_inputs(folder: Path) -> None:
    """Write what a study brings along: two models, prompts, neutral text and neurons."""
    folder.mkdir()
    tokenizer = word_tokenizer()
    model = tiny.build_model("llama")
    whole = {f"Ġ{word}" for word in CLEAN + NEGATIVE}
    rare = torch.ones(tiny.VOCABULARY, dtype=torch.bool)  # everything but whole words
    rare[[number for token, number in tokenizer.get_vocab().items() if token in whole]] = False
    model.lm_head.weight[rare] *= 0.05
    for name in ("base", "tuned"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        tiny.nudge(model, 0.05)
    challenge = [{"prompt": sentence(n, 5), "kind": KINDS[n % len(KINDS)]} for n in range(16)]
    write_lines(folder / "challenge.jsonl", map(json.dumps, challenge))
    write_lines(folder / "sampling_calm.txt", (sentence(n, 6) for n in range(100, 112)))
    write_lines(folder / "sampling_rude.txt", (sentence(n, 4) for n in range(200, 212)))
    write_lines(folder / "articles.txt", (sentence(n, 30) for n in range(300, 300 + ARTICLES)))
    terms = (f"{word},{3 - n % 3}" for n, word in enumerate(NEGATIVE))
    write_lines(folder / "terms.csv", ["text,severity_rating", *terms])
    reviews = (f"{review(n, negative=n % 2 == 0)},{1 - n % 2}" for n in range(24))
    write_lines(folder / "reviews.csv", ["text,negative", *reviews])
    write_lines(folder / "neurons.csv", ["layer,neuron", *(f"{i},{j}" for i, j in LISTED)])


def review(number: int, negative: bool) -> str:
    """Return a sentence of this number's own, with some negative words if it shall be negative."""
    words = sentence(number, 6).split()
    if negative:
        words[1::3] = [NEGATIVE[number % len(NEGATIVE)], NEGATIVE[number // 2 % len(NEGATIVE)]]
    return " ".join(words)


def write_lines(path: Path, lines) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Return byte-level BPE in which every word of ours is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=tiny.VOCABULARY,
        special_tokens=[tiny.END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CLEAN + NEGATIVE, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=tiny.END)


def configuration(inputs: Path) -> dict:
    """Return the overlay of the tiny study; its paths are relative to the working directory."""

    def files(*names):
        digests = [hashlib.sha256((inputs / name).read_bytes()).hexdigest() for name in names]
        pairs = zip(names, digests, strict=True)
        return [{"path": f"inputs/{name}", "sha256": digest} for name, digest in pairs]

    return {
        "behaviour": {"name": "negative sentiment", "adjective": "negative"},
        "device": "cpu",
        "model": {
            "name": "tiny",
            "source": {"path": "inputs/base"},  # its shape is read from there
        },
        "datasets": {
            "challenge": {
                "files": files("challenge.jsonl"),
                "format": "jsonl",
                "text_field": "prompt",
                "category_field": "kind",
            },
            "sampling": {
                "files": files("sampling_calm.txt", "sampling_rude.txt"),
                "format": "lines",
            },
            "articles": {"files": files("articles.txt"), "format": "lines"},
            "reviews": {"files": files("reviews.csv"), "format": "csv"},
        },
        "prompts": {
            "max_tokens": 12,
            "train": {"dataset": "sampling", "number": 20, "exclude": ["challenge"]},
            "analysis": {"dataset": "challenge", "number": 8},
            "evaluation": {"dataset": "challenge", "number": 6},
        },
        "corpus": {
            "dataset": "articles",
            "window_tokens": 12,
            "windows": 3,
            "continuations": 3,
            "passage_tokens": 6,
        },
        "generation": {"new_tokens": 6, "batch_size": 4},
        "shards": 2,
        "sampling": {"temperature": 2.0, "scorer": "opinion"},
        "preferences": {"margin": 0.2, "maximum": 12},
        "scorers": {
            "lexicon": None,
            "opinion": {
                "kind": "lexicon",
                "threshold": 0,
                "source": {"path": "inputs/terms.csv"},
            },
        },
        # enough to make it less negative
        "tuned": {"dpo": {"learning_rate": 3e-3, "batch_size": 4, "epochs": 3}},
        "directions": {
            "embeddings": {"words": {"toward": ["awful", "sad"], "away": ["river", "hill"]}},
            "svd": {"number": 12},
            "reviews": {
                "method": "probe",
                "texts": "reviews",
                "label": "negative",
                "layer": 1,
                "tokens": 12,
                "held_out": 0.25,
            },
        },
        "attribution": {
            "directions": ["mean_difference", "reviews"],
            "ablated": 5,
            "decoded": 3,
            "nulls": 4,
        },
        "statistics": {"samples": 50},
        "fidelity": {"prompts": 5, "pairs": 4},
        "account": {"prompts": 3},
        "gradients": {"prompts": 5},
        "rankings": {"prompts": 3, "percent": [5, 50]},
        # those of the default study are dropped, whatever their names
        "experiments": dict.fromkeys(DEFAULT["experiments"]) | EXPERIMENTS,
        "curve": "curve",
        "claims": {
            "ablations": ["ablate-top", "ablate-positive"],
            "dampened": "patch-TP-",
            "anti": "patch-AN-",
            "both": "patch-both",
            "restoring": ["scale-keys"],
            "activations": "top-10",
            "back": "weights",
            **dict.fromkeys(("weights", "attention", "mlp")),  # of the default study's
        },
    }


def copy_workflow(folder: Path) -> None:
    """Copy what snakemake reads of the repository into a new folder."""
    ignored = shutil.ignore_patterns("__pycache__")
    folder.mkdir(parents=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        elif (ROOT / part).is_file():
            shutil.copy2(ROOT / part, folder / part)


@dataclass(frozen=True)
class Job:
    """A planned job: its rule, its wildcards, and why it would run."""

    rule: str
    wildcards: dict[str, str] = field(hash=False)
    reason: str


@dataclass(frozen=True)
class Study:
    """A folder with a copy of the workflow, inputs, study.yaml, and the results of a run.

    study.yaml is an overlay on the files `under` it, if some are named.
    """

    folder: Path
    under: tuple[str, ...] = ()

    @classmethod
    def create(cls, folder: Path) -> "Study":
        """Copy what snakemake reads of the repository, and bring the tiny study's inputs."""
        copy_workflow(folder)
        write_inputs(folder / "inputs")
        study = cls(folder)
        study.configure(configuration(folder / "inputs"))
        return study

    def copy(self, folder: Path) -> "Study":
        """Return the same study elsewhere, with all modification times."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return replace(self, folder=folder)

    @property
    def overlay(self) -> dict:
        """The content of study.yaml."""
        return yaml.safe_load((self.folder / "study.yaml").read_text(encoding="utf-8"))

    def configure(self, overlay: dict) -> None:
        """Write study.yaml."""
        text = yaml.safe_dump(overlay, sort_keys=False)
        (self.folder / "study.yaml").write_text(text, encoding="utf-8")

    def change(self, key: str, value) -> None:
        """Set a key of study.yaml, with dots between its parts; a number is a place in a list."""
        overlay = self.overlay
        *parents, last = (int(part) if part.isdigit() else part for part in key.split("."))
        place = overlay
        for part in parents:
            place = place[part] if isinstance(place, list) else place.setdefault(part, {})
        place[last] = value
        self.configure(overlay)

    def path(self, name: str) -> Path:
        """Return a path in the study's folder."""
        return self.folder / name

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace the one occurrence of a text in a file."""
        path = self.path(name)
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name} holds {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def start(self, *options: str, environment: Mapping[str, str] = os.environ) -> subprocess.Popen:
        """Start the command in the study's folder; its `stdout` holds both streams.

        It works without a network: a proxy that refuses every connection stands in its way.
        """
        command = [sys.executable, "-m", "snakemake", "-s", str(self.path("Snakefile"))]
        overlays = [str(self.path(name)) for name in (*self.under, "study.yaml")]
        command += ["--configfile", *overlays, "--directory", str(self.folder)]
        # a shell's SNAKEMAKE_PROFILE would change what is tested
        kept = {k: v for k, v in environment.items() if not k.startswith("SNAKEMAKE_")}
        return subprocess.Popen(
            # a job of a tiny model mostly imports: two at a time are faster than two threads each
            [*command, "--max-threads", "1", *options],
            cwd=self.folder,
            env=kept | {"HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def snakemake(self, *options: str) -> subprocess.CompletedProcess:
        """Run the command on two cores of this machine."""
        process = self.start("--cores", "2", *options)
        output, _ = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def run(self, *options: str) -> str:
        """Run the command, which has to succeed, and return what it printed."""
        result = self.snakemake(*options)
        assert result.returncode == 0, result.stdout[-8000:]
        return result.stdout

    def plan(self, *options: str) -> list[Job]:
        """Return the jobs that a dry run plans, without the target rule all."""
        text = self.run("--dry-run", *options, "--quiet", "host")
        blocks = re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)*)", text, re.MULTILINE)
        jobs = []
        for rule, body in blocks:
            found = dict(re.findall(r"^ {4}(\w+): (.*)$", body, re.MULTILINE))
            pairs = (pair.split("=", 1) for pair in found.get("wildcards", "").split(", ") if pair)
            jobs.append(Job(rule, dict(pairs), found.get("reason", "")))
        # the table of numbers says whether the blocks were read as they are meant
        counted = dict(re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE))
        assert len(jobs) == int(counted.get("total", 0)), text
        return [job for job in jobs if job.rule != "all"]

    def planned(self, *options: str) -> set[str]:
        """Return the names of the rules that a dry run plans."""
        return {job.rule for job in self.plan(*options)}
