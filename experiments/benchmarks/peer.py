"""A peer in a process of its own. It starts once, builds its model, and answers "run once" requests over pipes.

Requests and answers are lines of JSON. The first request is `{"model": sizes, ..}`, its answer
`{"version": .., "parameters": ..}`. Every other request is a piece of work; the answer is its `Time`, which the peer
measures itself. The other end is `peers/serve.py`.
"""

import argparse
import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jax

from asyncthink_jax.model.transformer import abstract_params
from experiments.benchmarks.common import Time


class MissingPeersError(Exception):
    """The peers' virtual environment isn't there."""


class Peer:
    """A running peer: `script` of the folder `peers/`, in the peers' environment.

    Raises MissingPeersError if `make bench-peers` hasn't been run, RuntimeError if the peer dies or its model has
    another number of parameters than ours.
    """

    def __init__(self, script: str, flags: argparse.Namespace, **settings: Any):
        if not flags.peers_python.exists():
            raise MissingPeersError(f"{flags.peers_python} is not there: run `make bench-peers` first")
        self.script = script
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}
        environment |= {
            "JAX_PLATFORMS": "cuda" if flags.platform == "gpu" else "cpu",
            "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
            "TOKENIZERS_PARALLELISM": "false",
        }
        self.process = subprocess.Popen(
            [flags.peers_python, Path(__file__).parent / "peers" / f"{script}.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        about = self.ask({"platform": flags.platform, "model": dataclasses.asdict(flags.model), **settings})
        self.version, ours = about["version"], sum(x.size for x in jax.tree.leaves(abstract_params(flags.model)))
        if about["parameters"] != ours:
            raise RuntimeError(f"{script} has {about['parameters']} parameters, ours {ours}")

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sends a request and waits for its answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the peer {self.script} has died with exit code {self.process.wait()}")
        return json.loads(answer)

    def time(self, request: dict[str, Any]) -> Time:
        """The peer's time for a piece of work."""
        return Time(**self.ask(request))

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def start(scripts: list[str], flags: argparse.Namespace, **settings: Any) -> dict[str, Peer]:
    """The chosen peers of a benchmark by name; a smoke run goes on without them if their environment is missing."""
    wanted = [script for script in scripts if flags.peers is None or script in flags.peers]
    try:
        return {script: Peer(script, flags, **settings) for script in wanted}
    except MissingPeersError as error:
        if not flags.quick:
            raise SystemExit(f"error: {error}") from error
        print(f"without peers: {error}")
        return {}
