"""How fast capture and experiments are, as ratios to plain generation in the same run.

After the default study, in its folder:

    python tests/benchmarks/speed.py

Measured on the same prompts and in the same batch size, repeated and interleaved:

plain            Hugging Face `generate`, greedy
capture          the store's way: generating while every neuron's activation is averaged
straightforward  13 interventions, each a full `generate` under hooks at the newest position
experiment       the same 13 interventions as `run_experiment` runs them

The tokens of the last two are compared.

Then what one intervention of each kind costs beyond what all share, in floating-point operations as
torch counts them and in seconds: read along what the tuned model wrote after at most 32 of the
prompts (`fidelity`), and generating (`generation`), under hooks, beside the tuned model, and as a
copy with moved weights.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.utils import logging as transformers_logging

sys.path.extend(
    str(Path(__file__).resolve().parents[2] / "workflow" / "scripts" / stage)
    for stage in (".", "attribution", "experiments")
)

from capture_activations import capture_batch
from neurondynamics.interventions.following import measure_fidelity
from neurondynamics.interventions.parts import Edit
from neurondynamics.interventions.plans import Plan, plan_steps
from neurondynamics.interventions.stage import Stage
from neurondynamics.interventions.texts import Item
from neurondynamics.interventions.units import Units
from neurondynamics.limits import FOLLOWED_TEXTS
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.encoding import encode_prompts
from neurondynamics.lm.generation import (
    decode,
    end_tokens,
    pad_left,
    prefill,
    sorted_batches,
)
from neurondynamics.lm.hooks import Hook, hooked
from neurondynamics.lm.loading import load_model, load_tokenizer
from run_experiment import continue_batch

GROUPS = {
    "TP-": ["TP-"],
    "AN-": ["AN-"],
    "TN+": ["TN+"],
    "AP+": ["AP+"],
    "all": ["TP-", "AN-", "TN+", "AP+"],
}


KINDS = {
    "hooks": {"select": {"modules": ["mlp"]}, "operation": "scale", "factor": 0.9},
    "beside": {"select": {"modules": ["attention"]}, "operation": "patch", "mode": "paired"},
    "transplant": {"operation": "transplant", "parts": ["mlp"]},
}


def thirteen_interventions(neurons: pd.DataFrame) -> dict[str, Plan]:
    """Return the unedited model, two ablations, and five sets of groups patched in two modes."""
    steps = {
        "none": [],
        "ablate-10": [{"select": {"top": 10}, "operation": "zero"}],
        "ablate-100": [{"select": {"top": 100}, "operation": "zero"}],
    }
    for mode in ("mean", "shift"):
        for name, groups in GROUPS.items():
            patch = {"select": {"groups": groups}, "operation": "patch", "mode": mode}
            steps[f"{mode}-{name}"] = [patch]
    return {name: plan_steps(Units(neurons), step, {}) for name, step in steps.items()}


def plain_generate(lm, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    """Return the new tokens of one batch by Hugging Face `generate`."""
    ids, mask = pad_left(prompts, lm.device)
    written = lm.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
    )[:, ids.shape[1] :]
    ends = end_tokens(lm)
    return [until_end(row, ends) for row in written.tolist()]


def until_end(tokens: list[int], ends: list[int]) -> list[int]:
    """Cut a row after its first end-of-sequence token."""
    for place, token in enumerate(tokens):
        if token in ends:
            return tokens[: place + 1]
    return tokens


def straightforward_generate(
    lm, anatomy, edits: list[Edit], prompts: list[list[int]], new_tokens: int
) -> list[list[int]]:
    """Generate a batch in full, edited at the newest position of every forward pass."""
    hooks = [
        Hook(anatomy.layers[layer].down, "input", at_newest_position(edit, layer, lm))
        for edit in edits
        for layer in sorted(set(edit.layers.tolist()))
    ]
    with hooked(hooks):
        return plain_generate(lm, prompts, new_tokens)


def at_newest_position(edit: Edit, layer: int, lm) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a hook on a layer's activations, (batch, positions, d_mlp), written plainly."""
    here = edit.layers == layer
    index = torch.as_tensor(edit.inputs[here], device=lm.device)
    values = torch.zeros(len(index), device=lm.device, dtype=lm.dtype)
    if edit.act != "zero":
        values = torch.as_tensor(edit.values[here], device=lm.device).to(lm.dtype)  # noqa: PD011

    def act(activation: torch.Tensor) -> torch.Tensor:
        activation = activation.clone()
        if edit.act == "shift":
            activation[:, -1, index] += values
        else:
            activation[:, -1, index] = values
        return activation

    return act


def timed(function: Callable[[], object]) -> tuple[float, object]:
    """Return the seconds that a call takes, and what it returns."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def counted(function: Callable[[], object]) -> tuple[float, float]:
    """Return how many operations a call does, and the seconds that it takes uncounted."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops(), timed(function)[0]


def print_kinds(lm, tuned, units: Units, items: list[Item], new_tokens: int) -> None:
    """Print what an intervention of each kind costs, read and generating."""
    plans = {name: plan_steps(units, [step], {}) for name, step in KINDS.items()}
    prompts = [item.tokens for item in items[:FOLLOWED_TEXTS]]
    written = decode(tuned, prefill(tuned, prompts), new_tokens).lists()
    stage = Stage(lm, tuned, dict(tuned.named_parameters(remove_duplicate=False)))

    def read(some: dict[str, Plan]) -> tuple[float, float]:
        return counted(lambda: measure_fidelity(lm, tuned, prompts, written, some))

    def write(some: dict[str, Plan]) -> tuple[float, float]:
        return counted(lambda: continue_batch(stage, some, items, new_tokens, range(len(items))))

    print(f"one intervention, {len(prompts)} texts read, {len(items)} continued")
    spent: dict[str, dict[str, tuple[float, float]]] = {}
    for kind, measure in (("fidelity", read), ("generation", write)):
        shared = measure({})
        for name, plan in plans.items():
            flop, seconds = (a - b for a, b in zip(measure({name: plan}), shared, strict=True))
            spent.setdefault(name, {})[kind] = flop, seconds
            print(f"{kind:10s} {name:10s} {flop / 1e12:7.3f} TFLOP {seconds:7.2f} s")
    for name, of_kind in spent.items():
        flop, seconds = (
            of_kind["fidelity"][i] / sum(both[i] for both in of_kind.values()) for i in (0, 1)
        )
        print(f"fidelity of both, {name:10s} {flop:.2f} by operations, {seconds:.2f} by seconds")


def main() -> None:
    """Measure, and print the seconds of every repetition and the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="resources/models/smollm2-135m")
    parser.add_argument("--results", default="results/smollm2-135m")
    parser.add_argument("--tuned", default="dpo")
    parser.add_argument("--prompts", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers_logging.set_verbosity_error()

    lm = load_model(options.model, "float32", options.device)
    tokenizer = load_tokenizer(options.model)
    anatomy = dissect(lm)
    lines = Path(options.results, "base/prompts/evaluation.jsonl").read_text(encoding="utf-8")
    texts = [json.loads(line)["text"] for line in lines.splitlines()][: options.prompts]
    prompts = encode_prompts(tokenizer, texts, 32)
    neurons = pd.read_parquet(Path(options.results, options.tuned, "neurons.parquet"))
    interventions = thirteen_interventions(neurons)
    items = [Item("prompts", n, "", ids, []) for n, ids in enumerate(prompts)]
    size, new = options.batch_size, options.new_tokens
    batches = list(sorted_batches([len(ids) for ids in prompts], size))

    def plain():
        return [plain_generate(lm, [prompts[i] for i in batch], new) for batch in batches]

    def capture():
        return [
            capture_batch(lm, anatomy, [prompts[i] for i in batch], None, new, [])
            for batch in batches
        ]

    def straightforward():
        return {
            (name, i): tokens
            for name, plan in interventions.items()
            for batch in batches
            for i, tokens in zip(
                batch.tolist(),
                straightforward_generate(lm, anatomy, plan.edits, [prompts[i] for i in batch], new),
                strict=True,
            )
        }

    def experiment():
        stage = Stage(lm, None)
        continued = [(b, continue_batch(stage, interventions, items, new, b)) for b in batches]
        return {
            (name, i): tokens
            for batch, by_intervention in continued
            for name, written in by_intervention.items()
            for i, tokens in zip(batch.tolist(), written, strict=True)
        }

    plain()  # warm up
    seconds = {f.__name__: [] for f in (plain, capture, straightforward, experiment)}
    for _ in range(options.repeats):
        for function in (plain, capture):
            seconds[function.__name__].append(timed(function)[0])
        spent, expected = timed(straightforward)
        seconds["straightforward"].append(spent)
        spent, found = timed(experiment)
        seconds["experiment"].append(spent)
    print(f"{len(prompts)} prompts, batches of {size}, {new} new tokens, on {lm.device}")
    for name, measured in seconds.items():
        print(f"{name:16s} {'  '.join(f'{one:7.2f}' for one in measured)} s")
    ratios = [c / p for c, p in zip(seconds["capture"], seconds["plain"], strict=True)]
    print(f"capture / plain: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    pairs = zip(seconds["straightforward"], seconds["experiment"], strict=True)
    ratios = [slow / fast for slow, fast in pairs]
    print(
        f"straightforward / experiment of {len(interventions)}: {median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    same = sum(found[key] == tokens for key, tokens in expected.items())
    print(f"continuations with identical tokens: {same} of {len(expected)}")
    tuned = load_model(f"{options.results}/{options.tuned}/model", "float32", options.device)
    heads = pd.read_parquet(Path(options.results, options.tuned, "heads.parquet"))
    units = Units.of(dissect(lm), neurons, heads, "base")
    print_kinds(lm, tuned, units, items, new)


if __name__ == "__main__":
    main()
