"""Shared by the benchmarks: the model's sizes, the flags, rounds in which the sides take turns, the file of results."""

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.parallel.mesh import use_cpu_devices
from asyncthink_jax.storage.provenance import provenance

RESULTS = Path(__file__).parent / "results"
PEERS_PYTHON = Path(__file__).resolve().parents[2] / ".venv-peers" / "bin" / "python"  # by `make bench-peers`

# The models of the benchmarks: Qwen3 at random weights, fp32 everywhere. A size other than "small" goes into the name
# of the result; smoke runs take QUICK_MODEL.
MODELS = {
    "small": ModelConfig(vocab_size=8192, layers=8, width=256, heads=8, kv_heads=4, head_dim=32, mlp_width=768),
    "0.6b": ModelConfig(
        vocab_size=151936, layers=28, width=1024, heads=16, kv_heads=8, head_dim=128, mlp_width=3072, rope_theta=1e6
    ),
}
QUICK_MODEL = ModelConfig(vocab_size=512, layers=2, width=64, heads=4, kv_heads=2, head_dim=16, mlp_width=192)


def arguments(description: str | None, rounds: int) -> argparse.Namespace:
    """Parses the flags that every benchmark has, and starts JAX on the platform they name.

    The result has `platform`, `quick`, `rounds`, `devices`, `results` (a folder, or None: nothing is written), `note`,
    `peers` (the names of those wanted, or None: all), `peers_python` and `model`.
    """
    parser = argparse.ArgumentParser(description=(description or "").split("\n\n")[0])
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="smoke run: small sizes, one round, nothing is kept")
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds of each side; the median counts")
    parser.add_argument("--devices", type=int, default=0, help="our CPU devices; 0 = one for each core, as in the demo")
    parser.add_argument("--results", type=Path, help=f"folder of the JSON file; default {RESULTS.name}/ beside this")
    parser.add_argument("--note", default="", help="other work on the machine; goes into the file")
    parser.add_argument("--size", choices=MODELS, default="small", help="size of the model; 0.6b is Qwen3-0.6B")
    peers = sorted(path.stem for path in (Path(__file__).parent / "peers").glob("*.py") if path.stem != "serve")
    parser.add_argument("--peers", nargs="*", choices=peers, help="only these peers; default: all")
    parser.add_argument(
        "--peers-python", type=Path, default=PEERS_PYTHON, help="interpreter that has the peers; default: bench-peers'"
    )
    flags = parser.parse_args()
    flags.model = QUICK_MODEL if flags.quick else MODELS[flags.size]
    if flags.quick:
        flags.rounds = 1
    elif flags.results is None:
        flags.results = RESULTS
    if flags.platform == "gpu":
        jax.config.update("jax_platforms", "cuda")
        jax.config.update("jax_default_matmul_precision", "float32")  # JAX's default there keeps 10 bits, torch's all
    else:
        jax.config.update("jax_platforms", "cpu")
        use_cpu_devices(flags.devices or len(os.sched_getaffinity(0)))
    return flags


class Time(NamedTuple):
    """The time of a piece of work: on the clock, and of the processor, which other work on the machine changes less."""

    seconds: float
    processor: float


def timed(work: Callable[[], Any]) -> Time:
    """Does a piece of work once."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return Time(time.perf_counter() - clock, time.process_time() - processor)


def in_turn(sides: dict[str, Callable[[], Time]], rounds: int) -> dict[str, list[Time]]:
    """Runs every side once to warm up, then `rounds` times, one after the other."""
    for side in sides.values():
        side()
    times: dict[str, list[Time]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            times[name].append(side())
    return times


def report(
    flags: argparse.Namespace,
    name: str,
    ours: float,
    peers: dict[str, float],
    unit: str,
    runs: int | dict[str, list[Time]],
    higher_is_better: bool = True,
    **detail: Any,
) -> dict[str, Any]:
    """Prints the result of a benchmark, and writes `<results>/<name>.json`, with `_gpu` and the size where they differ.

    `ours` and `peers` are in `unit`; a ratio says how many times faster ours is. `runs` are the times of every round by
    side, or the count of what was measured once. `detail` goes into the file as it is.
    """
    if isinstance(runs, dict):
        detail["processor_seconds"] = {side: [round(t.processor, 4) for t in times] for side, times in runs.items()}
    name += "_gpu" * (flags.platform == "gpu") + f"_{flags.size}" * (flags.size != "small" and not flags.quick)
    ratios = {peer: ours / value if higher_is_better else value / ours for peer, value in peers.items()}
    result = {
        "name": name,
        "ours": round(ours, 4),
        "peers": {peer: round(value, 4) for peer, value in peers.items()},
        "ratios": {peer: round(value, 2) for peer, value in ratios.items()},
        "unit": unit,
        "runs": runs if isinstance(runs, int) else {side: [round(t.seconds, 4) for t in runs[side]] for side in runs},
        **provenance(),
        "note": flags.note,
        "detail": {"platform": flags.platform, "model": dataclasses.asdict(flags.model), **detail},
    }
    print(f"{name}: ours {ours:.4g} {unit}")
    for peer, value in peers.items():
        print(f"{name}: {peer} {value:.4g} {unit}, ours is {ratios[peer]:.2f} times as fast")
    if flags.results is not None:
        flags.results.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result, indent=2, default=lambda x: round(float(x), 6))
        (flags.results / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return result


def median(times: list[Time]) -> float:
    """The median of the seconds on the clock."""
    return statistics.median(time.seconds for time in times)


def rates(count: float, times: dict[str, list[Time]]) -> dict[str, float]:
    """`count` things a second, by the median of each side's rounds."""
    return {name: count / median(values) for name, values in times.items()}
