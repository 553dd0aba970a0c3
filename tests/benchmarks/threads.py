"""How threads that wait should do so: asleep or spinning, alone and beside other work.

    python tests/benchmarks/threads.py [--passes 200] [--others 2]

Reads one token at a time with a random Llama of the width of SmolLM2, as decoding does, and one
text of 64 tokens at a time, as capture does. Prints passes a second for each policy, alone on the
machine and beside as many other processes as told that do the same, and what passive waiting costs
or gains. Policies take turns, since machines are noisy.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

POLICIES = ({}, {"OMP_WAIT_POLICY": "PASSIVE"})  # GNU's own, which spins a while, and ours
TURNS = 3


def work(passes: int, tokens: int) -> float:
    """Return passes a second over `tokens` tokens each."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=4096, hidden_size=576, intermediate_size=1536, num_hidden_layers=12,
        num_attention_heads=9, num_key_value_heads=3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.zeros(8 if tokens == 1 else 1, tokens, dtype=torch.long)
    with torch.inference_mode():
        model(input_ids=ids)
        started = time.monotonic()
        for _ in range(passes):
            model(input_ids=ids, use_cache=False)
    return passes / (time.monotonic() - started)


def start(policy: dict[str, str], passes: int, tokens: int) -> subprocess.Popen:
    """Start a process that works under a policy, with a thread for each core."""
    cores = str(len(os.sched_getaffinity(0)))
    plain = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return subprocess.Popen(
        [sys.executable, __file__, "--passes", str(passes), "--tokens", str(tokens)],
        env=plain | policy | {"OMP_NUM_THREADS": cores},
        stdout=subprocess.PIPE,
        text=True,
    )


def measure(policy: dict[str, str], passes: int, tokens: int, others: int) -> float:
    """Return passes a second of one process beside others that work until it ends."""
    beside = [start(policy, 10**9, tokens) for _ in range(others)]
    try:
        return float(start(policy, passes, tokens).communicate()[0])
    finally:
        for process in beside:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--passes", type=int, default=200)
    parser.add_argument("--others", type=int, default=2)
    parser.add_argument("--tokens", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tokens:
        print(work(options.passes, options.tokens))
        return
    print(f"{Path(__file__).name}: passes a second, median of {TURNS}")
    for others in (0, options.others):
        for tokens in (1, 64):
            turns = [
                [measure(policy, options.passes, tokens, others) for policy in POLICIES]
                for _ in range(TURNS)
            ]
            spinning, asleep = map(median, zip(*turns, strict=True))
            print(
                f"{others} others, {tokens:3d} tokens: spinning {spinning:.1f}, "
                f"asleep {asleep:.1f}, asleep / spinning {asleep / spinning:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
