"""Reinforcement learning: reward, advantage, which tokens train, and the loss, against numbers worked out by hand."""

import dataclasses
import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from asyncthink_jax.config import RLConfig, RolloutConfig, SFTConfig
from asyncthink_jax.data import packing, pipeline
from asyncthink_jax.model import transformer
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.parallel.mesh import make_mesh
from asyncthink_jax.protocol.episode import Attempt, Episode, Trace
from asyncthink_jax.training import grpo, sft
from asyncthink_jax.training.finite import NonFiniteError
from asyncthink_jax.training.grpo import Grpo
from asyncthink_jax.training.optimizer_step import new_state
from asyncthink_jax.training.sft import normalised
from experiments.countdown_tiny import get_config


def episode(traces=(), **facts):
    about = {"paradigm": "async", "agents": 4, "answer": None}
    about |= {"format_error": None, "critical_path": 10, "concurrency": 0.5}
    return Episode(**(about | facts), traces=list(traces))


def reward(config, score, **facts):
    return grpo.reward(config, episode(**facts), score)


def attempt(reward, traces):
    return Attempt("", {}, 0, episode(traces), None, reward)


def trace(prompt, tokens, joined=(), role="organizer", logprobs=-0.7):
    """A trace whose tokens at the places `joined` were inserted by a Join."""
    sampled = ~np.isin(np.arange(len(tokens)), joined)
    return Trace(
        role=role,
        fork_id=None if role == "organizer" else 1,
        prompt=np.array(prompt, np.int32),
        tokens=np.array(tokens, np.int32),
        sampled=sampled,
        logprobs=np.where(sampled, np.float32(logprobs), np.float32(0)),
        steps=np.cumsum(sampled).astype(np.int32),
        events=[],
        end="answer" if role == "organizer" else "return",
    )


# --- Reward (paper, section 4).

FOUND = {"accuracy": 0.75, "correct": 3, "answered": 4, "wrong": 1}
ALL = {"accuracy": 1.0, "correct": 4, "answered": 4, "wrong": 0}


@pytest.mark.parametrize(
    ("config", "facts", "expected"),
    [
        ({}, {"score": FOUND, "concurrency": 0.4}, 0.75 + 0.5),  # 0.4 of tau = 0.8
        ({}, {"score": ALL, "concurrency": 0.8}, 2.0),
        ({}, {"score": ALL, "concurrency": 1.0}, 2.0),  # beyond tau nothing more is earned
        ({"tau": 1.0}, {"score": ALL, "concurrency": 0.25}, 1.25),
        ({"concurrency_weight": 0.2}, {"score": FOUND, "concurrency": 0.4}, 0.75 + 0.1),
        ({"concurrency_weight": 0.0}, {"score": ALL, "concurrency": 0.9}, 1.0),
        ({}, {"score": ALL, "answer": "1", "format_error": "pool_full"}, -1.0),  # whatever the answer is worth
        ({"format_penalty": -3.0}, {"score": FOUND, "format_error": "no_answer"}, -3.0),
        ({"all_correct_bonus": 0.5, "concurrency_weight": 0.0}, {"score": ALL}, 1.5),
        ({"all_correct_bonus": 0.5, "concurrency_weight": 0.0}, {"score": FOUND}, 0.75),
        ({"concurrency_times_accuracy": True}, {"score": FOUND, "concurrency": 0.4}, 0.75 + 0.75 * 0.5),
        ({"concurrency_times_accuracy": True}, {"score": ALL, "concurrency": 0.4}, 1.0 + 0.5),
        ({"wrong_penalty": 0.8, "concurrency_weight": 0.0}, {"score": FOUND}, 0.75 - 0.2),
        (
            {"wrong_penalty": 0.8, "concurrency_weight": 0.0},
            {"score": {"accuracy": 0.0, "correct": 0, "answered": 0, "wrong": 0}},
            0.0,
        ),
    ],
)
def test_the_reward_of_an_episode(config, facts, expected):
    fixed = {"tau": 0.8, "concurrency_weight": 1.0, "format_penalty": -1.0}
    fixed |= {"all_correct_bonus": 0.0, "wrong_penalty": 0.0}
    assert reward(RLConfig(**(fixed | config)), **facts) == pytest.approx(expected)


@pytest.mark.parametrize(
    "config", [RLConfig(), RLConfig(wrong_penalty=1.0), get_config().rl], ids=["", "equal", "demo"]
)
def test_a_malformed_episode_is_never_better_than_a_well_formed_one(config):
    malformed = reward(config, ALL, format_error="no_answer", concurrency=1.0)
    for wrong, answered, concurrency in itertools.product(range(5), range(5), (0.0, 0.3, 1.0)):
        right = max(0, answered - wrong)
        score = {"accuracy": right / 4, "correct": right, "answered": answered, "wrong": min(wrong, answered)}
        assert malformed <= reward(config, score, concurrency=concurrency)


# --- Advantage.


def test_an_advantage_is_the_reward_minus_the_mean_of_its_group():
    rewards = np.array([[1.0, 0.0, 0.5, 0.5], [2.0, 2.0, 2.0, -2.0]])
    expected = [[0.5, -0.5, 0.0, 0.0], [1.0, 1.0, 1.0, -3.0]]
    np.testing.assert_allclose(grpo.advantages(RLConfig(std_normalise=False), rewards), expected)


def test_advantages_can_be_divided_by_the_deviation_of_the_group():
    rewards = np.array([[1.0, 0.0], [3.0, -3.0], [0.3, 0.3]])
    normalised = grpo.advantages(RLConfig(std_normalise=True), rewards)
    np.testing.assert_allclose(normalised, [[1, -1], [1, -1], [0, 0]], atol=1e-5)


def test_a_group_of_equal_rewards_has_no_advantage_at_all():
    # The mean of seven times 0.1 is not 0.1 in floating point.
    rewards = np.full((1, 7), 0.1)
    assert (rewards - rewards.mean(axis=1, keepdims=True)).any()
    assert not grpo.advantages(RLConfig(), rewards).any()


# --- Which tokens train.


def test_what_an_agent_decoded_trains_and_what_it_read_does_not():
    organizer = trace([9, 9], [1, 2, 3, 4, 5], joined=(2, 3), logprobs=[-0.1, -0.2, 0, 0, -0.5])
    worker = trace([8], [6, 7], role="worker", logprobs=[-0.6, -0.7])
    config = RLConfig(worker_weight=0.5, worker_keep=1.0)
    first, second = grpo.training_rows(config, [episode(traces=[organizer, worker])], [-2.0], np.random.default_rng(0))
    assert first["tokens"].tolist() == [9, 9, 1, 2, 3, 4, 5]
    assert first["loss_weights"].tolist() == [0, 0, 1, 1, 0, 0, 1]
    assert first["advantages"].tolist() == [0, 0, -2, -2, 0, 0, -2]
    np.testing.assert_allclose(first["old_logprobs"], [0, 0, -0.1, -0.2, 0, 0, -0.5])
    assert second["tokens"].tolist() == [8, 6, 7]
    assert second["loss_weights"].tolist() == [0, 0.5, 0.5]
    assert second["advantages"].tolist() == [0, -2, -2]  # one advantage for the organizer and all its workers


def test_an_episode_without_advantage_and_a_trace_without_a_token_make_no_row():
    asleep = dataclasses.replace(trace([8], [], role="worker"), end="stopped")
    episodes = [episode(traces=[trace([9], [1]), trace([8], [2], role="worker")])] * 2
    episodes.append(episode(traces=[trace([9], [1]), asleep]))
    rows = grpo.training_rows(RLConfig(), episodes, [0.0, 1.0, -1.0], np.random.default_rng(0))
    assert [row["tokens"].tolist() for row in rows] == [[9, 1], [8, 2], [9, 1]]


@pytest.mark.parametrize(
    ("config", "least", "most"),
    [({"worker_keep": 0.25}, 200, 300), ({"worker_keep": 0.0}, 0, 0), ({"worker_weight": 0.0}, 0, 0), ({}, 1000, 1000)],
)
def test_a_share_of_the_workers_is_kept_and_every_organizer(config, least, most):
    one = episode(traces=[trace([9], [1]), *(trace([8], [2], role="worker") for _ in range(10))])
    rows = grpo.training_rows(RLConfig(**config), [one] * 100, [1.0] * 100, np.random.default_rng(0))
    workers = sum(row["tokens"][0] == 8 for row in rows)
    assert len(rows) - workers == 100 and least <= workers <= most
    again = grpo.training_rows(RLConfig(**config), [one] * 100, [1.0] * 100, np.random.default_rng(0))
    assert len(again) == len(rows)


# What each token of two episodes weighs: the first decoded three and its worker one, the second decoded one.
@pytest.mark.parametrize(
    ("aggregation", "organizer", "worker", "other"),
    [
        ("token-mean", 1 / 4.5, 0.5 / 4.5, 1 / 4.5),
        ("trace-mean", 1 / 3 / 2.5, 0.5 / 2.5, 1 / 2.5),
        ("episode-mean", 1 / 4 / 1.875, 0.5 / 4 / 1.875, 1 / 1.875),
        ("constant", 1 / 64, 0.5 / 64, 1 / 64),  # 2 episodes of up to 32 tokens a step
    ],
)
def test_tokens_traces_or_episodes_count_the_same(aggregation, organizer, worker, other):
    sizes = {"prompts": 2, "group_size": 2, "optimizer_steps": 2, "row_length": 32, "worker_weight": 0.5}
    config = RLConfig(aggregation=aggregation, **sizes)
    first = episode(traces=[trace([9], [1, 2, 3, 4], joined=(2,)), trace([8, 8], [5], role="worker")])
    rows = grpo.training_rows(config, [first, episode(traces=[trace([9], [6])])], [1, -1], np.random.default_rng(0))
    batch = grpo.step_weights(config, packing.pack(rows, 32, 1)[0])
    weights = dict(zip(batch["tokens"][0].tolist(), batch["loss_weights"][0].tolist(), strict=True))
    expected = {9: 0, 8: 0, 0: 0, 1: organizer, 2: organizer, 3: 0, 4: organizer, 5: worker, 6: other}
    assert weights == pytest.approx(expected)


def test_a_demonstration_counts_as_an_episode_does():
    shown = [{"tokens": np.arange(4), "loss_weights": np.array(w, np.float32)} for w in ([0, 1, 3, 0], [0, 0, 1, 1])]
    for aggregation, expected in (("token-mean", [1, 3, 1, 1]), ("trace-mean", [0.5, 1.5, 0.5, 0.5]),
                                  ("episode-mean", [0.25, 0.75, 0.25, 0.25])):  # fmt: skip
        rows = grpo.imitated_rows(RLConfig(aggregation=aggregation), shown)
        assert [w for row in rows for w in row["loss_weights"].tolist() if w] == pytest.approx(expected)


# --- The loss on a toy: two tokens, whose hidden states are (1, 1) and (1, -1), and each of which has probability 1/2.

TOY = ModelConfig(2, layers=1, width=2, heads=1, kv_heads=1, head_dim=2, mlp_width=2, tied_embeddings=False)
CLIP = {"clip_low": 0.2, "clip_high": 0.28, "temperature": 1.0, "kl": 0.0}


@pytest.fixture(scope="module")
def toy():
    params = jax.tree.map(jnp.zeros_like, jax.jit(transformer.init, static_argnums=0)(TOY, jax.random.key(0)))
    return params | {"embed": jnp.array([[1.0, 1.0], [1.0, -1.0]]), "final_norm": {"scale": jnp.ones(2)}}


def toy_batch(old_probabilities, advantage, **channels):
    """Prompt token 0, then tokens 1 and 0 decoded."""
    return {
        "tokens": jnp.array([[0, 1, 0]]),
        "positions": jnp.array([[0, 1, 2]]),
        "segment_ids": jnp.ones((1, 3), int),
        "loss_weights": jnp.array([[0.0, 0.5, 0.5]]),
        "advantages": jnp.array([[0.0, advantage, advantage]]),
        "old_logprobs": jnp.log(jnp.array([[1.0, *old_probabilities]])),
        "imitated": jnp.zeros((1, 3)),
        **channels,
    }


@functools.cache
def toy_gradient(**config):
    return jax.jit(jax.grad(grpo.make_loss(TOY, RLConfig(**(CLIP | config))), has_aux=True))


def unembed_gradient(toy, batch, **config):
    gradient, numbers = toy_gradient(**config)(toy, batch)
    return np.asarray(gradient["unembed"]), numbers


def test_the_gradient_of_the_loss_equals_one_worked_out_by_hand(toy):
    # d log p(y) / d unembed[:, v] = (1[v = y] - 1/2) h, and the loss has -w A r times that. Token 1 after token 0, with
    # w A r = 0.5 * 0.7 * 1:     column 0: +0.175 (1, 1)      column 1: -0.175 (1, 1)
    # token 0 after token 1, with w A r = 0.5 * 0.7 * 0.5 / 0.4:
    #                            column 0: -0.21875 (1, -1)   column 1: +0.21875 (1, -1)
    gradient, _ = unembed_gradient(toy, toy_batch((0.5, 0.4), advantage=0.7))
    np.testing.assert_allclose(gradient, [[-0.04375, 0.04375], [0.39375, -0.39375]], rtol=1e-5)


def test_log_probabilities_are_those_at_the_sampling_temperature(toy):
    # Logits / 0.5: the same probabilities here, twice the gradient.
    gradient, _ = unembed_gradient(toy, toy_batch((0.5, 0.4), advantage=0.7), temperature=0.5)
    np.testing.assert_allclose(gradient, [[-0.0875, 0.0875], [0.7875, -0.7875]], rtol=1e-5)


@pytest.mark.parametrize(
    ("old", "advantage", "flows"),
    [
        (0.4, 1.0, True),  # ratio 1.25, below 1.28
        (0.38, 1.0, False),  # ratio 1.32: likelier already than the clip lets it become
        (0.38, -1.0, True),  # ... but a bad token is made less likely from wherever it is
        (0.6, -1.0, True),  # ratio 0.83, above 0.8
        (0.65, -1.0, False),  # ratio 0.77: unlikelier already
        (0.65, 1.0, True),
    ],
)
def test_the_clip_stops_a_token_that_has_moved_far_enough_its_way(toy, old, advantage, flows):
    gradient, numbers = unembed_gradient(toy, toy_batch((0.5, old), advantage))
    first = -0.25 * advantage * np.array([[-1, 1], [-1, 1]])
    second = -0.25 * advantage * (0.5 / old) * np.array([[1, -1], [-1, 1]])
    np.testing.assert_allclose(gradient, first + second * flows, rtol=1e-5)
    assert float(numbers["clipped"]) == pytest.approx(0.0 if flows else 0.5)
    assert float(numbers["entropy"]) == pytest.approx(np.log(2))  # of the tokens that train: the mean


def test_the_kl_penalty_pulls_towards_the_cold_start(toy):
    # k3 = exp(b) - b - 1 with b = log(p_reference / p); its gradient is (1 - exp(b)) d log p: half of it for 1/4 : 1/2.
    reference = jnp.log(jnp.array([[1.0, 0.25, 0.5]]))
    batch = toy_batch((0.5, 0.5), advantage=0.0, reference_logprobs=reference)
    gradient, numbers = unembed_gradient(toy, batch, kl=2.0)
    np.testing.assert_allclose(gradient, 2.0 * 0.5 * 0.5 * 0.5 * np.array([[-1, 1], [-1, 1]]), rtol=1e-5)
    assert float(numbers["kl"]) == pytest.approx(0.5 * (0.5 + np.log(2) - 1), rel=1e-5)


def test_what_is_imitated_is_made_likelier_whatever_its_advantage_and_wherever_it_started(toy):
    batch = toy_batch((0.01, 0.99), advantage=-3.0, imitated=jnp.array([[0.0, 1.0, 0.0]]))
    gradient, numbers = unembed_gradient(toy, batch)
    # -w d log p of token 1 after token 0; token 0 after it is a bad one, and clipped (ratio 0.51).
    np.testing.assert_allclose(gradient, 0.25 * np.array([[1, -1], [1, -1]]), rtol=1e-5)
    assert float(numbers["logprob_change"]) == pytest.approx(0.5 * np.log(0.99 / 0.5), rel=1e-5)


def test_rows_of_demonstrations_have_weights_and_no_advantage():
    shown = {"tokens": np.array([9, 1, 2]), "loss_weights": np.array([0, 1, 3], np.float32)}
    (row,) = grpo.imitated_rows(RLConfig(imitation_weight=0.5), [shown])
    assert row["loss_weights"].tolist() == [0, 0.5, 1.5] and row["imitated"].tolist() == [1, 1, 1]
    assert not row["advantages"].any() and row["tokens"].tolist() == [9, 1, 2]
    decoded = grpo.training_rows(RLConfig(), [episode(traces=[trace([9], [1])])], [1.0], np.random.default_rng(0))
    assert row.keys() == decoded[0].keys() and not decoded[0]["imitated"].any()


# --- Masked tokens, on a real (tiny) model.

MODEL = ModelConfig(12, layers=1, width=8, heads=2, kv_heads=1, head_dim=4, mlp_width=8)
SIZES = {"rows": 2, "row_length": 16, "loss_chunk": 16}


@pytest.fixture(scope="module")
def params():
    return jax.jit(transformer.init, static_argnums=0)(MODEL, jax.random.key(1))


@pytest.fixture(scope="module")
def batch():
    organizer = trace([9, 9], [1, 2, 3, 4, 5], joined=(2, 3), logprobs=-2.3)
    worker = trace([8], [6, 7], role="worker", logprobs=-2.6)
    rows = grpo.training_rows(RLConfig(), [episode(traces=[organizer, worker])], [1.5], np.random.default_rng(0))
    return normalised(packing.pack(rows, SIZES["row_length"], SIZES["rows"])[0])


@pytest.fixture(scope="module")
def gradients():
    """Of the parameters and of the batch's real-valued channels, with a KL penalty."""
    loss = grpo.make_loss(MODEL, RLConfig(**(CLIP | SIZES | {"kl": 0.1})))

    @jax.jit
    def of(params, batch):
        fixed = {name: batch[name] for name in ("tokens", "positions", "segment_ids", "loss_weights", "imitated")}
        channels = {name: batch[name] for name in ("advantages", "old_logprobs", "reference_logprobs")}
        return jax.grad(lambda p, c: loss(p, fixed | c)[0], argnums=(0, 1))(params, channels)

    return lambda params, batch: of(params, {"reference_logprobs": batch["old_logprobs"], **batch})


def test_masked_tokens_have_exactly_no_gradient(params, batch, gradients):
    masked = batch["loss_weights"] == 0
    assert 0 < np.count_nonzero(~masked) == 5
    _, by_channel = gradients(params, batch)
    for name, gradient in by_channel.items():
        assert not np.asarray(gradient)[masked].any(), name
        assert np.all(np.asarray(gradient)[~masked] != 0), name


@pytest.mark.parametrize("garbage", [1e4, -1e30, np.inf, -np.inf])
def test_what_stands_at_masked_tokens_changes_no_bit_of_the_update(params, batch, gradients, garbage):
    # Joined text, prompts and padding: with 0 * inf the whole update would be nan.
    masked = batch["loss_weights"] == 0
    spoilt = {
        **batch,
        "old_logprobs": np.where(masked, np.float32(garbage), batch["old_logprobs"]),
        "reference_logprobs": np.where(masked, np.float32(garbage), batch["old_logprobs"]),
        "advantages": np.where(masked, np.float32(7), batch["advantages"]),
    }
    jax.tree.map(np.testing.assert_array_equal, gradients(params, spoilt)[0], gradients(params, batch)[0])


def test_a_batch_in_which_nothing_trains_moves_nothing(params, batch, gradients):
    nothing = {**batch, "loss_weights": np.zeros_like(batch["loss_weights"])}
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients(params, nothing)[0]))


def test_joined_text_is_read_though_it_does_not_train(params, batch, gradients):
    # The embedding of a joined token gets a gradient from what was decoded after it: only its own prediction is masked.
    untied = jax.tree.map(
        np.asarray, gradients(params, {**batch, "tokens": np.where(batch["tokens"] == 3, 10, batch["tokens"])})[0]
    )
    before = jax.tree.map(np.asarray, gradients(params, batch)[0])
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(untied), jax.tree.leaves(before), strict=True))


# --- The update of an iteration.


def played(rewards):
    """Two problems with two episodes each."""
    traces = lambda n: [trace([9], [1 + n, 2, 3]), trace([8], [4 + n], role="worker")]  # noqa: E731
    return [attempt(reward, traces(n)) for n, reward in enumerate(rewards)]


@functools.cache
def update_of(top_k=0, reference=None, **config):
    """What makes a first state, and the update of an iteration; `reference`: its seed."""
    fields = {"group_size": 2, "prompts": 2, "optimizer_steps": 1, "worker_keep": 1.0, "microbatches": 1}
    config = SimpleNamespace(rl=RLConfig(**(CLIP | SIZES | fields | config)), rollout=RolloutConfig(top_k=top_k))
    mesh, optimizer = make_mesh(devices=jax.devices()[:1]), optax.adamw(1e-2, weight_decay=0.1)
    parts = SimpleNamespace(config=config, model=MODEL, mesh=mesh, frozen={}, demonstrations=None)
    begun = None if reference is None else transformer.init(MODEL, jax.random.key(reference))
    return lambda params: new_state(params, optimizer, mesh), Grpo(parts, optimizer, begun).learn


@jax.jit
def chances(params):
    """How likely each token is after the prompt [9]."""
    tokens = jnp.array([[9]])
    hidden = transformer.forward(MODEL, params, tokens, jnp.zeros_like(tokens), jnp.ones_like(tokens))
    return jax.nn.softmax(transformer.logits(MODEL, params, hidden)[0, 0])


def bandit(params, worth, then=(), **config):
    """The chances after each of 24 updates on a bandit: an episode draws one token, which has this worth (else 0).

    `then`: tokens that every episode has behind it, of which no log-probability is recorded.
    """
    first_state, update = update_of(**config)
    state, rng, found = first_state(jax.tree.map(jnp.copy, params)), np.random.default_rng(0), []
    for _ in range(24):
        found.append(np.asarray(chances(state.params), float))
        drawn = [1, 2, *rng.choice(MODEL.vocab_size, 10, p=found[-1] / found[-1].sum())]
        attempts = [
            attempt(worth.get(int(token), 0.0), [trace([9], [int(token), *then], logprobs=np.log(found[-1][token]))])
            for token in rng.permutation(drawn)
        ]
        state, _ = update(state, attempts, rng)
    return [*found, np.asarray(chances(state.params), float)]


@pytest.mark.parametrize("config", [{}, {"optimizer_steps": 2, "recompute_logprobs": True}], ids=str)
def test_what_is_rewarded_becomes_likelier_and_what_is_punished_less(params, config):
    first, *_, last = bandit(params, {1: 1.0, 2: -1.0}, **config)
    assert last[1] > 3 * first[1] and last[2] < first[2] / 3
    first, *_, last = bandit(params, {1: -1.0, 2: 1.0}, **config)
    assert last[2] > 3 * first[2] and last[1] < first[1] / 3


def updated(params, rewards, **config):
    first_state, update = update_of(**config)
    state = first_state(jax.tree.map(jnp.copy, params))
    before = jax.tree.map(np.array, state)
    after, numbers = update(state, played(rewards), np.random.default_rng(0))
    return before, jax.tree.map(np.asarray, after), numbers


@pytest.mark.parametrize(
    ("rewards", "change", "says"),
    [
        ([0.0, 1.0, np.nan, 1.0], {}, "a reward is nan"),
        ([0.0, 1.0, 0.0, 1.0], {"logprobs": np.full(3, -np.inf, np.float32)}, "the sampler's log-probability of a tok"),
    ],
)
def test_a_reward_or_a_log_probability_that_is_not_finite_is_no_update(params, rewards, change, says):
    first_state, update = update_of()
    attempts = played(rewards)
    traces = attempts[1].episode.traces
    traces[0] = dataclasses.replace(traces[0], **change)
    with pytest.raises(NonFiniteError, match=says):
        update(first_state(jax.tree.map(jnp.copy, params)), attempts, np.random.default_rng(0))


def test_old_log_probabilities_of_broken_parameters_are_no_update(params):
    broken = jax.tree.map(lambda x: x * jnp.nan, params)
    with pytest.raises(NonFiniteError, match="the trainer's old log-probability of a token is nan"):
        updated(broken, [0.1, 0.1, 0.0, 1.0], recompute_logprobs=True)


def test_groups_of_equal_rewards_move_nothing_not_even_the_optimizer(params):
    before, after, numbers = updated(params, [0.1, 0.1, 1.7, 1.7])
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert numbers == {}


def test_a_group_of_equal_rewards_adds_nothing_to_the_update_of_another(params):
    _, both, numbers = updated(params, [0.1, 0.1, 0.0, 1.0])
    _, other, _ = updated(params, [5.0, 5.0, 0.0, 1.0])
    before, alone, _ = updated(params, [0.0, 0.0, 0.0, 1.0])
    jax.tree.map(np.testing.assert_array_equal, both, alone)
    jax.tree.map(np.testing.assert_array_equal, other, alone)
    assert any(
        (a != b).any() for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(both.params), strict=True)
    )
    assert int(both.step) == 1 and numbers["rows"] == 1


def test_an_update_imitates_demonstrations_beside_the_episodes(params, monkeypatch):
    shown = [{"tokens": np.array([9, 7]), "loss_weights": np.array([0, 1], np.float32)}]
    monkeypatch.setattr(pipeline, "drawn_traces", lambda *_, **__: shown)
    _, without, _ = updated(params, [0.1, 0.1, 0.0, 1.0])
    _, imitating, _ = updated(params, [0.1, 0.1, 0.0, 1.0], imitated_demonstrations=3, imitation_weight=9.0)

    def loss_of_demonstration(state):
        batch = packing.pack(shown, SIZES["row_length"], 1)[0]
        return float(sft.make_loss(MODEL, SFTConfig(loss_chunk=16))(state.params, batch)[0])

    assert loss_of_demonstration(imitating) < loss_of_demonstration(without)


def test_minibatches_take_a_step_each_and_one_without_advantage_takes_none(params):
    assert int(updated(params, [0.0, 1.0, 1.0, 0.0], optimizer_steps=2)[1].step) == 2
    assert int(updated(params, [0.0, 1.0, 0.3, 0.3], optimizer_steps=2)[1].step) == 1


def test_all_rows_of_an_update_train_whatever_microbatches_they_are_in(params):
    # 24 tokens in rows of 8: three of the four rows, and one and a half of the two microbatches.
    sizes, rewards = {"rows": 4, "row_length": 8}, [0.0, 1.0, 1.0, 0.0]
    _, _, whole = updated(params, rewards, **sizes)
    _, _, parts = updated(params, rewards, microbatches=2, **sizes)
    assert whole["rows"] == parts["rows"] == 3
    for name in ("loss", "entropy", "gradient_norm"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-4), name


def test_with_a_constant_divisor_the_loss_is_smaller_and_the_metrics_are_means_all_the_same(params):
    # Four tokens of two prompts with two episodes each, of up to 16 tokens: the mean over 16 tokens becomes 16 / 64.
    _, _, mean = updated(params, [0.0, 1.0, 1.0, 0.0])
    _, _, constant = updated(params, [0.0, 1.0, 1.0, 0.0], aggregation="constant")
    for name in ("loss", "gradient_norm"):
        assert constant[name] == pytest.approx(mean[name] * 16 / 64, rel=1e-4), name
    for name in ("entropy", "clipped", "logprob_change", "replay_gap"):
        assert constant[name] == pytest.approx(mean[name], rel=1e-4), name


def test_the_kl_penalty_is_to_the_reference_and_not_to_the_policy_that_samples(params):
    _, _, numbers = updated(params, [0.0, 1.0, 1.0, 0.0], reference=2, kl=0.1, recompute_logprobs=True)
    assert numbers["kl"] > 1e-4 and numbers["logprob_change"] < 1e-6


def test_old_log_probabilities_can_be_computed_again_by_the_trainer(params):
    # The recorded ones, -0.7 each, are far off for this model: so far that the clip bites.
    _, _, recorded = updated(params, [0.0, 1.0, 1.0, 0.0])
    _, _, recomputed = updated(params, [0.0, 1.0, 1.0, 0.0], recompute_logprobs=True)
    assert recorded["replay_gap"] > 1 and recorded["logprob_change"] == recorded["replay_gap"]
    assert recomputed["replay_gap"] == pytest.approx(recorded["replay_gap"]) and recomputed["logprob_change"] < 1e-6


def test_log_probabilities_of_another_distribution_than_the_trainers_are_never_old_ones(params):
    _, _, numbers = updated(params, [0.0, 1.0, 1.0, 0.0], top_k=5)
    assert numbers["logprob_change"] < 1e-6 and "replay_gap" not in numbers


def test_recomputed_old_log_probabilities_are_of_the_policy_that_sampled_in_every_minibatch(params):
    # The second minibatch is trained on by other parameters than those that sampled it.
    _, _, both = updated(params, [0.0, 1.0, 1.0, 0.0], optimizer_steps=2, recompute_logprobs=True)
    assert both["replay_gap"] > 1 and 1e-6 < both["logprob_change"] < 1
