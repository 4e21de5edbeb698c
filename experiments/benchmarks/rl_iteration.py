"""One iteration of reinforcement learning: ours, tunix's GRPO learner and TRL's GRPO trainer.

16 samples (2 prompts of 60 tokens, 8 each), 128 new tokens each, random rewards, no KL term, one AdamW step over all of
them, fp32. Counted: sampling, rewards, advantages, batch, gradient, update, and the new parameters for the sampler.
Equal lengths: no row may end before its 128 tokens. Ours takes the sampler's own log-probabilities; so do the peers in
effect (with one step an iteration the ratio is 1).
"""

import jax
import numpy as np

from asyncthink_jax.config import RLConfig
from asyncthink_jax.data import packing
from asyncthink_jax.model.parameters import rollout_specs
from asyncthink_jax.rollout.state import Limits
from asyncthink_jax.training import grpo, sft
from asyncthink_jax.training.optimizer import make_optimizer
from asyncthink_jax.training.optimizer_step import OptimizerStep, new_state
from experiments.benchmarks import peer
from experiments.benchmarks.common import arguments, in_turn, rates, report, timed
from experiments.benchmarks.ours import Ours, ending_after


def main() -> None:
    flags = arguments(__doc__, rounds=5)
    prompts, group, prompt, new = (2, 2, 8, 8) if flags.quick else (2, 8, 60, 128)
    settings = {"prompts": prompts, "group": group, "prompt": prompt, "new": new}
    peers = peer.start(["tunix_grpo", "trl_grpo"], flags, **settings)
    iteration = OurIteration(flags.model, **settings)
    sides = {name: lambda one=one: one.time({}) for name, one in peers.items()}
    times = in_turn({"ours": lambda: timed(iteration), **sides}, flags.rounds)
    speeds = rates(prompts * group, times)
    report(
        flags,
        "rl_iteration",
        speeds.pop("ours"),
        speeds,
        "samples/s",
        times,
        **settings,
        versions={name: one.version for name, one in peers.items()},
    )
    for one in peers.values():
        one.close()


class OurIteration:
    """Called, does one iteration; the steps are those of `training/grpo.py` without problems."""

    def __init__(self, model, prompts: int, group: int, prompt: int, new: int):
        rows = prompts * group
        self.config = RLConfig(
            learning_rate=1e-6, temperature=1.0, prompts=prompts, group_size=group, rows=rows, row_length=prompt + new
        )
        self.ours = Ours(model, Limits(rows, prompt + new, new, 0, feed_width=min(prompt, 64)))
        self.prompts = [one for one in self.ours.prompts([prompt] * prompts) for _ in range(group)]
        self.script = ending_after([new] * rows)
        optimizer = make_optimizer(self.config, 10_000)
        self.state = new_state(self.ours.params, optimizer, self.ours.mesh)
        self.step = OptimizerStep(grpo.make_loss(model, self.config), optimizer, self.ours.mesh, microbatches=1)
        self.rng = np.random.default_rng(0)

    def __call__(self) -> None:
        self.ours.params = jax.device_put(self.state.params, rollout_specs(self.state.params, self.ours.mesh))
        rollout = self.ours.run(self.prompts, self.script)
        episodes = [rollout.episode(n, self.ours.engine.wire.token_bytes) for n in range(len(rollout))]
        rewards = self.rng.random((self.config.prompts, self.config.group_size))
        advantage = grpo.advantages(self.config, rewards).reshape(-1)
        rows = grpo.training_rows(self.config, episodes, advantage.tolist(), self.rng)
        batch, left_out = packing.pack(rows, self.config.row_length, self.config.rows)
        assert not left_out
        self.state, numbers = self.step(self.state, sft.normalised(batch))
        jax.block_until_ready((self.state, numbers))


if __name__ == "__main__":
    main()
