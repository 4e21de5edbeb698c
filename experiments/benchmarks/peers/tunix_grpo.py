"""google-tunix: GRPO iterations of its Qwen3 with random weights, sampling by its vanilla rollout.

The first request also has `prompts` (each decoded `group` times), `group`, `prompt` and `new`. Work: {}, one iteration:
sampling, rewards, one optimizer step. The learner runs its own loop and takes its next prompts when an iteration is
over; its data set waits for a request there.
"""

import importlib.metadata
import os

import jax
import numpy as np
import optax
from flax import nnx
from serve import Clock, requests
from tunix.models.qwen3 import model as qwen3
from tunix.rl import rl_cluster
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rollout.base_rollout import RolloutConfig
from tunix_sampler import Tokenizer, model_config


class Words(Tokenizer):
    """Text that the rewards may look at."""

    def decode(self, ids):
        return " ".join(map(str, ids))


def main():
    work = requests()
    first, answer = next(work)
    sizes = first["model"]
    actor = qwen3.Qwen3(model_config(sizes), rngs=nnx.Rngs(0))
    count = sum(x.size for x in jax.tree.leaves(nnx.state(actor, nnx.Param)))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
    cluster = rl_cluster.RLCluster(
        actor=actor,
        tokenizer=Words(sizes["vocab_size"]),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(roles, mesh),
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.adamw(1e-6), eval_every_n_steps=10**9, max_steps=10**6
            ),
            rollout_config=RolloutConfig(
                max_tokens_to_generate=first["new"],
                max_prompt_length=first["prompt"],
                kv_cache_size=first["prompt"] + first["new"],
                temperature=1.0,
                eos_tokens=[sizes["vocab_size"]],  # never sampled: every row takes all its tokens
            ),
        ),
    )
    rng = np.random.default_rng(0)
    learner = GRPOLearner(
        cluster,
        GRPOConfig(num_generations=first["group"], beta=0.0),
        reward_fns=lambda prompts, completions, **_: rng.random(len(completions)).tolist(),
    )

    def prompts():
        size = (first["prompts"], first["prompt"])
        # The learner looks at the first batch before its loop starts.
        answered = lambda _: None  # noqa: E731
        clock = Clock()
        while True:
            jax.block_until_ready(nnx.state(cluster.actor_trainer.model))
            answered(clock.time())
            request = next(work, None)
            if request is None:
                os._exit(0)  # from a thread of the learner's
            answered, clock = request[1], Clock()
            rows = rng.integers(1, sizes["vocab_size"] - 1, size)
            # An array: of a list, each string would be repeated by itself.
            yield {"prompts": np.array([" ".join(map(str, row)) for row in rows])}

    answer({"version": importlib.metadata.version("google-tunix"), "parameters": count})
    learner.train(prompts())


if __name__ == "__main__":
    main()
