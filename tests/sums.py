"""A task of a few words, for tests: some sums at once, `3 + 4 , 10 + 9` to `7 , 19`."""

import dataclasses
import re
from typing import ClassVar

from asyncthink_jax.config import Config, RolloutConfig, SFTConfig
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Problem:
    query: str

    def to_json(self):
        return {"query": self.query}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sums(Task):
    name: str = "sums"
    size: int = 12  # problems in each split
    parts: int = 3
    fields: ClassVar = {"query": "text"}

    @property
    def instructions(self):
        return "Task: add up the numbers of each part."

    def records(self, skip_bad=False):
        def query(i):
            return " , ".join(f"{i + part} + {2 * part}" for part in range(1, self.parts + 1))

        return {split: [{"query": query(i)} for i in range(self.size)] for split in self.split_names}

    def problems(self, record):
        return [self.from_json(record)]

    def from_json(self, record):
        return Problem(record["query"])

    def score(self, problem, answer):
        totals = [sum(map(int, re.findall(r"\d+", part))) for part in problem.query.split(",")]
        right = answer is not None and answer.split(" ,") == [f" {total}" for total in totals]
        return {"accuracy": float(right), "correct": int(right), "answered": 1, "wrong": int(not right)}

    def merge(self, answers):
        return answers[0]

    def tokenizer_texts(self):
        words = [*map(str, range(100)), "+", "=", ",", "I", "think"]
        return ["".join(f" {word}" for word in words)] * 20


CONFIG = Config(
    name="sums",
    task=Sums(),
    model=ModelConfig(vocab_size=0, layers=1, width=32, heads=2, kv_heads=1, head_dim=16, mlp_width=64),
    rollout=RolloutConfig(organizer_budget=100, worker_budget=20, context=160),
    sft=SFTConfig(row_length=160),
)
