"""The transformer: packed rows, cached decoding, and a reference of the Qwen3 block in plain NumPy."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asyncthink_jax.model import cache as kv_cache
from asyncthink_jax.model import transformer
from asyncthink_jax.model.model_config import ModelConfig, RopeScaling

QWEN = ModelConfig(vocab_size=40, layers=3, width=24, heads=4, kv_heads=2, head_dim=8, mlp_width=32)
LLAMA = dataclasses.replace(
    QWEN, layers=2, qk_norm=False, tied_embeddings=False, rope_theta=1e4, norm_eps=1e-5, heads=2
)
# One frequency stays, one is mixed, two are divided.
LLAMA3 = dataclasses.replace(LLAMA, rope_scaling=RopeScaling(factor=8, original_context=200), rope_theta=1e3)
LENGTH = 13

forward = jax.jit(transformer.forward, static_argnums=0)
decode = jax.jit(transformer.decode, static_argnums=0, static_argnames=("groups", "read_lengths"))


@pytest.fixture(scope="module", params=[QWEN, LLAMA, LLAMA3], ids=["qwen", "llama", "llama3"])
def model(request):
    return request.param, random_params(request.param)


def random_params(config):
    """Parameters in which no norm is the identity and every matrix matters."""
    rng = np.random.default_rng(0)
    noise = lambda p: p + 0.2 * rng.standard_normal(p.shape, dtype=np.float32)  # noqa: E731
    return jax.tree.map(noise, transformer.init(config, jax.random.key(0)))


def random_tokens(shape, seed=0):
    return np.random.default_rng(seed).integers(0, QWEN.vocab_size, shape, dtype=np.int32)


def alone(config, params, tokens):
    """The hidden states of one sequence that has the row to itself."""
    tokens = jnp.asarray(tokens)[None]
    positions = jnp.arange(tokens.shape[1])[None]
    return np.asarray(forward(config, params, tokens, positions, jnp.ones_like(tokens))[0])


def test_forward_agrees_with_a_plain_numpy_reference(model):
    config, params = model
    tokens = random_tokens(LENGTH)
    hidden = alone(config, params, tokens)
    expected = reference(config, jax.tree.map(np.asarray, params), tokens)
    np.testing.assert_allclose(hidden, expected, atol=1e-4)

    table = np.asarray(params["embed"].T if config.tied_embeddings else params["unembed"])
    np.testing.assert_allclose(transformer.logits(config, params, hidden), expected @ table, atol=1e-3)


def test_segments_of_a_row_do_not_see_each_other(model):
    config, params = model
    first, second = random_tokens(5, seed=1), random_tokens(8, seed=2)
    row = np.concatenate([first, second])
    positions = np.concatenate([np.arange(5), np.arange(8)])
    segments = np.repeat([1, 2], [5, 8])
    hidden = forward(config, params, row[None], positions[None], segments[None])[0]
    np.testing.assert_allclose(hidden[:5], alone(config, params, first), atol=1e-5)
    np.testing.assert_allclose(hidden[5:], alone(config, params, second), atol=1e-5)


def test_later_tokens_do_not_change_earlier_ones(model):
    config, params = model
    tokens = random_tokens(LENGTH)
    changed = np.append(tokens[:-1], (tokens[-1] + 1) % config.vocab_size)
    before, after = alone(config, params, tokens), alone(config, params, changed)
    np.testing.assert_array_equal(before[:-1], after[:-1])
    assert np.abs(before[-1] - after[-1]).max() > 1e-2


def test_padding_changes_nothing_and_gives_no_gradient(model):
    config, params = model
    tokens = random_tokens(LENGTH)

    def loss(params, filler):
        row = jnp.concatenate([tokens, jnp.full(6, filler)])[None]
        segments = np.repeat([1, 0], [LENGTH, 6])[None]
        hidden = forward(config, params, row, np.arange(LENGTH + 6)[None], segments)
        return jnp.sum(hidden[0, :LENGTH] ** 2), hidden[0, :LENGTH]

    gradient_of = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, hidden), gradient = gradient_of(params, 3)
    (_, hidden_other), gradient_other = gradient_of(params, 7)
    np.testing.assert_allclose(hidden, alone(config, params, tokens), atol=1e-5)
    np.testing.assert_array_equal(hidden, hidden_other)
    jax.tree.map(np.testing.assert_array_equal, gradient, gradient_other)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def feed(config, params, rows, pattern, *, cache_length=16, read_length=None, cache=None):
    """Feeds each row's tokens in calls of the widths `pattern`, at random paces (padding in between); hidden states."""
    rng = np.random.default_rng(0)
    count = len(rows)
    cache = (transformer.init_cache(config, count, cache_length),) if cache is None else cache
    fed = np.zeros(count, int)
    hidden = [[] for _ in rows]
    calls = 0
    while any(fed[r] < len(rows[r]) for r in range(count)):
        width = pattern[calls % len(pattern)]
        tokens = np.full((count, width), 1, np.int32)
        positions = np.full((count, width), -1, np.int32)
        for r, row in enumerate(rows):
            take = min(rng.integers(0, width + 1), len(row) - fed[r])
            places = np.sort(rng.permutation(width)[:take])  # padding before, between and after
            tokens[r, places] = row[fed[r] : fed[r] + take]
            positions[r, places] = fed[r] + np.arange(take)
            fed[r] += take
        output, cache = decode(config, params, cache, tokens, positions, read_lengths=(read_length,))
        for r in range(count):
            hidden[r].extend(np.asarray(output[r])[positions[r] >= 0])
        calls += 1
    return [np.array(h) for h in hidden], cache


@pytest.mark.parametrize("pattern", [(1,), (4,), (4, 1, 3)], ids=str)
def test_cached_decoding_equals_the_packed_forward(model, pattern):
    config, params = model
    rows = [random_tokens(n, seed=n) for n in (13, 1, 7, 16)]
    hidden, _ = feed(config, params, rows, pattern)
    for row, output in zip(rows, hidden, strict=True):
        np.testing.assert_allclose(output, alone(config, params, row), atol=1e-5)


def test_a_row_can_be_reused_without_clearing_its_cache(model):
    config, params = model
    _, cache = feed(config, params, [random_tokens(16, seed=1), random_tokens(9, seed=2)], (4,))
    rows = [random_tokens(5, seed=3), random_tokens(16, seed=4)]
    hidden, _ = feed(config, params, rows, (1, 2), cache=cache)
    for row, output in zip(rows, hidden, strict=True):
        np.testing.assert_allclose(output, alone(config, params, row), atol=1e-5)


def test_reading_part_of_the_cache_is_enough_for_short_rows(model):
    config, params = model
    rows = [random_tokens(8, seed=1), random_tokens(5, seed=2)]
    whole, _ = feed(config, params, rows, (3,))
    part, cache = feed(config, params, rows, (3,), read_length=8)
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert cache[0]["k"][0][-1].shape[2] == 16


def test_on_cpus_a_step_reads_the_shortest_array_of_the_cache_that_holds_its_rows(model):
    config, params = model
    tokens = random_tokens((2, 64), seed=8)
    steps = {
        "several": transformer.init_cache(config, 2, 64),
        "one": transformer.init_cache(config, 2, 64, kept_once=True),
    }
    assert [array.shape[2] for array in steps["several"]["k"][0]] == [32, 48, 64]
    hidden = {name: [] for name in steps}
    for at in range(0, 63, 3):  # 32 is a step's last position
        positions = np.array([at + np.arange(3), np.full(3, -1) if at % 2 else at // 2 + np.arange(3)])  # one is slower
        for name, cache in steps.items():
            output, (steps[name],) = decode(config, params, (cache,), tokens[:, at : at + 3], positions)
            hidden[name].append(output[positions >= 0])
            if name == "several":  # what is longer than it has to be is not looked at
                needed = next(n for n in (32, 48, 64) if at + 3 <= n)
                spoiled = jax.tree.map(lambda x, n=needed: x if x.shape[2] <= n else x * jnp.nan, cache)
                again, _ = decode(config, params, (spoiled,), tokens[:, at : at + 3], positions)
                np.testing.assert_array_equal(again[positions >= 0], hidden[name][-1])
    for several, one in zip(*hidden.values(), strict=True):
        np.testing.assert_allclose(several, one, atol=1e-5)
    for layer in steps["several"]["k"]:  # up to rounding: a compiler may compute what it writes once for each array
        np.testing.assert_allclose(layer[-1][:, :, :32], layer[0], atol=1e-6)


def test_rows_of_a_group_can_live_in_caches_of_different_lengths(model):
    config, params = model
    lengths, shape = (16, 8), (2, 3)  # in each of two groups one row of up to 16 tokens and two of up to 8
    tokens = random_tokens((6, 8), seed=6)
    one = decode(config, params, (transformer.init_cache(config, 6, 16),), tokens, np.tile(np.arange(8), (6, 1)))
    caches = tuple(transformer.init_cache(config, 2 * n, length) for n, length in zip((1, 2), lengths, strict=True))
    hidden, caches = decode(config, params, caches, tokens, np.tile(np.arange(8), (6, 1)), groups=2)
    np.testing.assert_allclose(hidden, one[0], atol=1e-5)
    assert [cache["k"][0][-1].shape[2] for cache in caches] == [16, 8]
    keys = np.asarray(one[1][0]["k"][1][-1])
    keys = keys.reshape(*shape, *keys.shape[1:])
    np.testing.assert_allclose(caches[0]["k"][1][-1], keys[:, 0], atol=1e-5)
    of_workers = keys[:, 1:, :, :8].reshape(4, *keys.shape[2:3], 8, -1)
    np.testing.assert_allclose(caches[1]["k"][1][-1], of_workers, atol=1e-5)


@pytest.mark.parametrize("width", [1, 3])
def test_a_tpu_decodes_the_same_although_it_reads_before_it_writes(model, width, monkeypatch):
    config, params = model
    caches, functions = {}, {}
    for platform in ("cpu", "tpu"):
        for module in (transformer, kv_cache):
            monkeypatch.setattr(module, "platform", lambda platform=platform: platform)
        caches[platform] = tuple(transformer.init_cache(config, rows, length) for rows, length in ((2, 16), (4, 9)))
        arguments = (config, params, caches[platform], *[jnp.zeros((6, width), jnp.int32)] * 2)
        lowered = jax.jit(partial(transformer.decode, groups=2, read_lengths=(16, 8)), static_argnums=0).lower(
            *arguments
        )
        text = lowered.as_text()
        assert (text.index("stablehlo.scatter") > text.rindex("stablehlo.dot_general")) == (platform == "tpu")
        functions[platform] = lowered.compile()
    start = np.zeros(6, int)
    for call in range(8 // width):
        tokens = random_tokens((6, width), seed=call)
        fed = np.random.default_rng(call).random((6, width)) < 0.8
        positions = np.where(fed, start[:, None] + np.cumsum(fed, axis=1) - 1, -1).astype(np.int32)
        start += fed.sum(axis=1)
        hidden = {}
        for platform, function in functions.items():
            hidden[platform], caches[platform] = function(params, caches[platform], tokens, positions)
        np.testing.assert_allclose(hidden["cpu"][fed], hidden["tpu"][fed], atol=1e-5)
    turned = jax.tree.map(lambda x: x.swapaxes(1, 2), caches["tpu"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), caches["cpu"], turned)


def test_padding_positions_write_nothing(model):
    config, params = model
    _, cache = feed(config, params, [random_tokens(16, seed=1)] * 2, (4,))
    tokens = random_tokens((2, 3), seed=5)
    _, after = decode(config, params, cache, tokens, np.full((2, 3), -1))
    jax.tree.map(np.testing.assert_array_equal, after, cache)


def test_decoding_in_a_while_loop_writes_the_cache_in_place():
    config, rows, length = QWEN, 64, 128
    params = random_params(config)

    def generate(params, cache, tokens):
        def step(state):
            i, cache, tokens = state
            hidden, cache = transformer.decode(config, params, cache, tokens, jnp.full((rows, 1), i))
            return i + 1, cache, jnp.argmax(transformer.logits(config, params, hidden), axis=-1).astype(jnp.int32)

        return jax.lax.while_loop(lambda s: s[0] < length, step, (0, cache, tokens))

    scratch, cache = {}, {}
    for kept_once in (True, False):
        cache[kept_once] = transformer.init_cache(config, rows, length, kept_once=kept_once)
        arguments = params, (cache[kept_once],), jnp.zeros((rows, 1), jnp.int32)
        compiled = jax.jit(generate, donate_argnums=1).lower(*arguments).compile()
        scratch[kept_once] = compiled.memory_analysis().temp_size_in_bytes
    # A layer's k or v: a copy of one would not fit in the scratch memory.
    assert scratch[True] < cache[True]["k"][0][0].nbytes
    assert scratch[False] < scratch[True] + cache[False]["k"][0][0].nbytes


def test_recomputation_changes_no_gradient():
    params = random_params(QWEN)
    tokens = random_tokens((2, LENGTH))
    positions = np.broadcast_to(np.arange(LENGTH), (2, LENGTH))

    def gradient(remat):
        config = dataclasses.replace(QWEN, remat=remat)
        loss = lambda p: jnp.sum(forward(config, p, tokens, positions, np.ones_like(tokens)) ** 3)  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    expected = gradient("none")
    for remat in ("full", "dots"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), expected, gradient(remat))


@pytest.mark.parametrize(("prefix", "inputs", "outputs"), [("layers/q", (8,), (4, 16)), ("layers/o", (4, 2), (64,))])
def test_gradients_of_a_projection_are_those_of_tensordot_and_copy_no_wide_layer(prefix, inputs, outputs):
    x, weights = (jax.random.normal(jax.random.key(n), (6, 32, *shape)) for n, shape in enumerate((inputs, outputs)))
    sizes = {"width": 8, "head_dim": 16} if prefix == "layers/q" else {"width": 64, "head_dim": 2}
    projection = transformer.Projection(dataclasses.replace(QWEN, heads=4, **sizes), prefix)
    params = projection.init(jax.random.key(2), x)["params"]

    def loss(product, x, kernel):
        return jnp.sum(weights * jnp.sin(product(x, kernel)))

    own = partial(loss, lambda x, kernel: projection.apply({"params": {"kernel": kernel}}, x))
    plain = partial(loss, partial(jnp.tensordot, axes=len(inputs)))
    found, expected = (jax.jit(jax.grad(f, (0, 1))) for f in (own, plain))
    for one, other in zip(found(x, params["kernel"]), expected(x, params["kernel"]), strict=True):
        # Another order of sums: the elements add up 32 or 192 products of about 1.
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)
    # 192 tokens: the gradient of the 64 outputs is never turned around.
    assert "f32[64,192]" not in found.lower(x, params["kernel"]).compile().as_text()


def test_bfloat16_computes_in_bfloat16_and_gives_fp32_logits():
    config = dataclasses.replace(QWEN, dtype="bfloat16")
    params = transformer.init(config, jax.random.key(0))
    tokens = random_tokens((1, LENGTH))
    hidden = forward(config, params, tokens, np.arange(LENGTH)[None], np.ones_like(tokens))
    output, cache = decode(config, params, (transformer.init_cache(config, 1, 16),), tokens, np.arange(LENGTH)[None])
    assert {hidden.dtype, output.dtype, cache[0]["k"][0][-1].dtype} == {jnp.dtype(jnp.bfloat16)}
    assert transformer.logits(config, params, hidden).dtype == jnp.float32
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    exact = alone(QWEN, params, tokens[0])
    assert np.abs(np.asarray(hidden[0], np.float32) - exact).max() < 0.1
    assert np.abs(np.asarray(output[0], np.float32) - exact).max() < 0.1


def slowed(scaling, frequency):
    """A frequency as Llama 3.1's release scales it."""
    wavelength = 2 * np.pi / frequency
    longest_kept = scaling.original_context / scaling.high_frequency_factor
    shortest_divided = scaling.original_context / scaling.low_frequency_factor
    if wavelength < longest_kept:
        return frequency
    if wavelength > shortest_divided:
        return frequency / scaling.factor
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    smooth = (scaling.original_context / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def reference(config, params, tokens):
    """Qwen3 (or Llama) for one sequence, a head and a token at a time, in float64."""
    half, group = config.head_dim // 2, config.heads // config.kv_heads
    frequencies = [slowed(config.rope_scaling, config.rope_theta ** (-i / half)) for i in range(half)]

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2) + config.norm_eps) * scale

    def rotate(x, position):
        turned = (x[:half] + 1j * x[half:]) * np.exp(1j * position * np.array(frequencies))
        return np.concatenate([turned.real, turned.imag])

    def heads(p, name, h, position):
        """The queries or keys of one token."""
        found = [h @ p[name]["kernel"][:, head] for head in range(p[name]["kernel"].shape[1])]
        if config.qk_norm:
            found = [norm(x, p[f"{name}_norm"]["scale"]) for x in found]
        return [rotate(x, position) for x in found]

    def attend(p, x, position, keys, values):
        """One token's residual stream after the attention; it adds itself to `keys` and `values`."""
        h = norm(x, p["attention_norm"]["scale"])
        keys.append(heads(p, "k", h, position))
        values.append([h @ p["v"]["kernel"][:, head] for head in range(config.kv_heads)])
        for head, q in enumerate(heads(p, "q", h, position)):
            weights = np.exp([q @ k[head // group] / np.sqrt(config.head_dim) for k in keys])
            mixed = sum(w * v[head // group] for w, v in zip(weights / weights.sum(), values, strict=True))
            x = x + mixed @ p["o"]["kernel"][head]
        return x

    def feed_forward(p, x):
        h = norm(x, p["mlp_norm"]["scale"])
        gate = h @ p["gate"]["kernel"]
        return x + (gate / (1 + np.exp(-gate)) * (h @ p["up"]["kernel"])) @ p["down"]["kernel"]

    params = jax.tree.map(lambda p: p.astype(np.float64), params)
    stream = [params["embed"][token] for token in tokens]
    for layer in range(config.layers):
        p = jax.tree.map(lambda p, layer=layer: p[layer], params["layers"])
        keys, values = [], []
        stream = [attend(p, x, position, keys, values) for position, x in enumerate(stream)]
        stream = [feed_forward(p, x) for x in stream]
    return np.array([norm(x, params["final_norm"]["scale"]) for x in stream])
