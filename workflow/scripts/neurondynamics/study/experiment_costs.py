"""What experiments cost: the memory of a job, and the work of all."""

from __future__ import annotations

from collections.abc import Iterator

from neurondynamics.limits import FOLLOWED_TEXTS, TOKENS_PER_PASS
from neurondynamics.study.costs import PROCESS, Work, lengths, model_of
from neurondynamics.study.interventions import (
    BEHAVIOUR,
    DAMAGE,
    FIDELITY,
    all_steps,
    followed_state,
    follows,
    is_search,
    measures_of,
    moves,
    split_of,
    with_controls,
)


def _experimenting(config: dict, experiment: str, **_) -> float:
    model, corpus, (prompt, new) = model_of(config), config["corpus"], lengths(config)
    chosen = config["experiments"][experiment]
    texts = config["prompts"][split_of(chosen)]["number"] + corpus["continuations"]
    rows = min(texts, config["generation"]["batch_size"])
    width = corpus["window_tokens"]
    tokens = width * min(corpus["windows"], max(1, TOKENS_PER_PASS // width))
    steps = list(all_steps(config["experiments"], chosen))
    models = 1 + any(map(follows, steps)) + any(map(moves, steps))  # a copy of its own
    caches = models * model.caches(rows, max(prompt, corpus["passage_tokens"]), new)
    # of the unedited model on all windows, and of every intervention on those that are read at once
    states = corpus["windows"] * width + len(with_controls(chosen)) * tokens
    neutral = states * model.width * model.itemsize + model.reading(tokens)
    work = max(caches + model.logits(rows), neutral)
    return PROCESS + models * model.weights + work


def _exporting(config: dict, **_) -> float:
    """The model, a copy with moved weights and its edited copy, in whatever precision it is stored:
    float32 at most."""
    return PROCESS + 3 * model_of(config, "float32").weights


def _continuing(config: dict, **_) -> float:
    model, rows = model_of(config), min(_read(config), config["generation"]["batch_size"])
    return PROCESS + model.weights + model.caches(rows, *lengths(config)) + model.logits(rows)


def _measuring(config: dict, **_) -> float:
    """Both models with the caches of a batch, the activations that are followed, and the last
    hidden states that interventions leave."""
    model, rows = model_of(config), min(_read(config), FOLLOWED_TEXTS)
    caches = 3 * model.caches(rows, *lengths(config))
    heard = rows * sum(lengths(config)) * model.layers * (model.neurons + model.width)
    experiments = config["experiments"].values()
    steps = (step for one in experiments for step in all_steps(config["experiments"], one))
    models = 2 + any(map(moves, steps))  # a copy of its own
    readings = 3 + max((len(with_controls(one)) for one in experiments), default=0)
    kept = heard + readings * rows * lengths(config)[1] * model.width
    return PROCESS + models * model.weights + caches + kept * model.itemsize


def _read(config: dict) -> int:
    return config["fidelity"]["prompts"]


MEMORY = {
    "run_experiment": _experimenting,
    "continue_prompts": _continuing,
    "measure_fidelity": _measuring,
    "export_model": _exporting,
}


def work_of_experiments(config: dict, tuned: str) -> Iterator[Work]:
    """Yield the work of a version's experiments, of scoring them and of measuring fidelity."""
    followed, number = set(), _read(config)
    prompt, new = lengths(config)
    for name, experiment in config["experiments"].items():
        job, measures = {"tuned": tuned, "experiment": name}, measures_of(experiment)
        if {BEHAVIOUR, DAMAGE} & set(measures):
            yield _work(config, tuned, name)
        scorers = config["scorers"] if BEHAVIOUR in measures else ()
        for scorer in [config["sampling"]["scorer"]] if is_search(experiment) else scorers:
            scored = {**job, "scorer": scorer}
            yield Work("score_generations", scored, config["shards"], models=0)
        if FIDELITY in measures:
            followed.add(followed_state(experiment))
            plans = with_controls(experiment).values()
            anew = sum(isinstance(plan, list) and any(map(_reads_anew, plan)) for plan in plans)
            # beside the unedited model and the other one, which is read once more in halves
            read = number * ((3 + anew) * prompt + (3 + len(plans)) * new)
            yield Work("measure_fidelity", job, config["shards"], read, models=2)
    for state in sorted(followed):
        job = {"tuned": tuned, "followed": state}
        yield Work("continue_prompts", job, read=number * prompt, decoded=number * new)


def _reads_anew(step: dict) -> bool:
    """Return whether a step acts on the prompt too, so that no prefill is shared."""
    return step.get("positions") == "all" or moves(step)


def _work(config: dict, tuned: str, name: str) -> Work:
    """Return an experiment's work; a model that is followed reads what the edited one reads."""
    corpus, experiment = config["corpus"], config["experiments"][name]
    measures, (prompt, new) = measures_of(experiment), lengths(config)
    texts = config["prompts"][split_of(experiment)]["number"] if BEHAVIOUR in measures else 0
    texts += corpus["continuations"] if DAMAGE in measures else 0
    windows = corpus["windows"] * corpus["window_tokens"] if DAMAGE in measures else 0
    read, decoded, most = windows, 0, 1  # the unedited model reads the windows too
    for steps in with_controls(experiment).values():
        chosen = steps if isinstance(steps, list) else []
        models = 2 if any(map(follows, chosen)) else 1
        everywhere = any(map(_reads_anew, chosen))
        read += models * windows + (models * texts * prompt if everywhere else 0)
        decoded += models * texts * new
        most = max(most, models)
    read += most * texts * prompt
    wildcards = {"tuned": tuned, "experiment": name}
    return Work("run_experiment", wildcards, config["shards"], read, decoded, models=most)
