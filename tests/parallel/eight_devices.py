"""What a mesh must not change; test_sharding.py runs this file with eight simulated devices."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asyncthink_jax.model import transformer
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.model.parameters import param_specs, rollout_specs
from asyncthink_jax.parallel.mesh import make_mesh
from asyncthink_jax.parallel.sharding import cache_spec, on_each_device, replicated, row_spec, shard
from asyncthink_jax.training.optimizer import orthogonalize

CONFIG = ModelConfig(vocab_size=32, layers=2, width=16, heads=4, kv_heads=2, head_dim=8, mlp_width=32)
ROWS, LENGTH = 8, 12
MESHES = [(8, 1, 1), (2, 2, 2), (1, 8, 1)]

meshes = pytest.mark.parametrize("sizes", MESHES, ids=str)


@pytest.fixture(scope="module")
def params():
    return transformer.init(CONFIG, jax.random.key(0))


def batch():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, CONFIG.vocab_size, (ROWS, LENGTH), dtype=np.int32)
    positions = np.tile(np.concatenate([np.arange(5), np.arange(7)]), (ROWS, 1))
    segments = np.tile(np.repeat([1, 2], [5, 7]), (ROWS, 1))
    return tokens, positions, segments


def loss(params, tokens, positions, segments):
    hidden = transformer.forward(CONFIG, params, tokens, positions, segments)
    logprobs = jax.nn.log_softmax(transformer.logits(CONFIG, params, hidden))
    return -jnp.mean(jnp.take_along_axis(logprobs[:, :-1], tokens[:, 1:, None], axis=-1))


def generate(params, cache, tokens):
    """Greedy decoding: the hidden states summed over the steps, the tokens, and by how much each is the likeliest."""

    def step(state):
        i, cache, tokens, total, out, leads = state
        hidden, cache = transformer.decode(
            CONFIG, params, cache, tokens, jnp.full((ROWS, 1), i), read_lengths=(LENGTH,)
        )
        logits = transformer.logits(CONFIG, params, hidden)
        tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        second = jnp.max(jnp.where(jnp.arange(CONFIG.vocab_size) == tokens[..., None], -jnp.inf, logits), axis=-1)
        out = out.at[:, i].set(tokens[:, 0])
        leads = leads.at[:, i].set((jnp.max(logits, axis=-1) - second)[:, 0])
        return i + 1, cache, tokens, total + hidden[:, 0], out, leads

    total, out, leads = jnp.zeros((ROWS, CONFIG.width)), jnp.zeros((ROWS, LENGTH), jnp.int32), jnp.zeros((ROWS, LENGTH))
    return jax.lax.while_loop(lambda s: s[0] < LENGTH, step, (0, cache, tokens, total, out, leads))[3:]


def compile_generate(params, mesh, layout):
    cache = (transformer.init_cache(CONFIG, ROWS, 16),)
    where = layout, jax.tree.map(lambda _: cache_spec(mesh), cache), row_spec(mesh)
    first = batch()[0][:, :1]
    with jax.set_mesh(mesh):
        compiled = jax.jit(generate, in_shardings=where).lower(params, cache, first).compile()
    return compiled, shard((params, cache, first), where)


def collectives(compiled):
    return set(
        re.findall(r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)[\w-]*\(", compiled.as_text())
    )


@meshes
def test_loss_and_gradients_equal_those_of_one_device(params, sizes):
    mesh = make_mesh(*sizes)
    specs = param_specs(params, mesh)
    expected = jax.jit(jax.value_and_grad(loss))(params, *batch())
    with jax.set_mesh(mesh):
        sharded = shard((params, batch()), (specs, row_spec(mesh)))
        got = jax.jit(jax.value_and_grad(loss), out_shardings=(replicated(mesh), specs))(sharded[0], *sharded[1])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), got, expected)


@meshes
def test_decoding_equals_that_of_one_device(params, sizes):
    mesh = make_mesh(*sizes)
    total, out, leads = jax.jit(generate)(params, (transformer.init_cache(CONFIG, ROWS, 16),), batch()[0][:, :1])
    compiled, arguments = compile_generate(params, mesh, rollout_specs(params, mesh))
    assert np.min(leads) > 1e-4  # so that no rounding makes another token the likeliest
    sharded_total, sharded_out, _ = compiled(*arguments)
    np.testing.assert_array_equal(sharded_out, out)
    np.testing.assert_allclose(sharded_total, total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1)], ids=str)
def test_decoding_in_the_rollout_layout_communicates_nothing(params, sizes):
    mesh = make_mesh(*sizes)
    assert collectives(compile_generate(params, mesh, rollout_specs(params, mesh))[0]) == set()


def test_decoding_split_over_tensor_gathers_no_parameters(params):
    """What it gathers is the argmax: a few numbers a row. In the training layout it would gather every matrix."""
    mesh = make_mesh(2, 2, 2)

    def largest_gather(layout):
        compiled = compile_generate(params, mesh, layout)[0].as_text()
        shapes = re.findall(r"\[([\d,]+)\]\S* all-gather\(", compiled)
        return max(np.prod([int(size) for size in shape.split(",")]) for shape in shapes)

    assert largest_gather(rollout_specs(params, mesh)) <= 2 * ROWS
    assert largest_gather(param_specs(params, mesh)) >= CONFIG.width * CONFIG.mlp_width // 2


@meshes
def test_every_device_holds_its_share_alone(params, sizes):
    mesh = make_mesh(*sizes)
    _, fsdp, tensor = sizes
    for layout, parts in ((param_specs(params, mesh), fsdp * tensor), (rollout_specs(params, mesh), tensor)):
        for kernel in (shard(params, layout)["embed"], shard(params, layout)["layers"]["k"]["kernel"]):
            assert {piece.data.size for piece in kernel.addressable_shards} == {kernel.size // parts}
    cache = shard(transformer.init_cache(CONFIG, ROWS, 16)["k"][0][-1], cache_spec(mesh))
    assert {piece.data.size for piece in cache.addressable_shards} == {cache.size // mesh.size}


@meshes
def test_muon_orthogonalizes_the_same_on_any_mesh_and_each_device_does_its_share(params, sizes):
    rule, mesh = orthogonalize(), make_mesh(*sizes)
    layers = {"layers": {name: module for name, module in params["layers"].items() if "kernel" in module}}
    update = lambda tree: rule.update(tree, rule.init(tree))[0]  # noqa: E731
    alone = jax.jit(update).lower(layers).compile()
    specs = param_specs(layers, mesh)
    with jax.set_mesh(mesh):
        sharded = jax.jit(update, in_shardings=(specs,), out_shardings=specs).lower(layers).compile()
        got = sharded(shard(layers, specs))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, alone(layers))
    # Ten matrices of one shape and four of another: a device has two and one.
    assert flops_of_products(sharded) < 0.3 * flops_of_products(alone)


def flops_of_products(compiled):
    """Twice the results' elements times the summed dimension, over the matrix products in the text of a program."""
    text = compiled.as_text()
    shapes = {name: list(map(int, dims.split(","))) for name, dims in re.findall(r"(%\S+) = f32\[([\d,]+)\]", text)}
    dots = re.findall(r"f32\[([\d,]+)\]\S* dot\((%[^ ,)]+).*lhs_contracting_dims=\{(\d)\}", text)
    assert dots
    return sum(2 * np.prod(list(map(int, out.split(",")))) * shapes[left][int(axis)] for out, left, axis in dots)


def test_parameters_made_on_the_mesh_are_those_made_on_one_device(params):
    mesh = make_mesh(2, 2, 2)
    specs = param_specs(transformer.abstract_params(CONFIG), mesh)
    with jax.set_mesh(mesh):
        made = jax.jit(partial(transformer.init, CONFIG), out_shardings=specs)(jax.random.key(0))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), made, params)  # two programs
    assert jax.tree.map(lambda p: p.sharding, made) == specs


def test_rows_inside_shard_map_are_left_alone(params):
    mesh = make_mesh()
    rows = row_spec(mesh).spec
    split = jax.shard_map(
        lambda *b: transformer.forward(CONFIG, params, *b), mesh=mesh, in_specs=(rows, rows, rows), out_specs=rows
    )
    with jax.set_mesh(mesh):
        np.testing.assert_allclose(
            jax.jit(split)(*batch()), transformer.forward(CONFIG, params, *batch()), rtol=1e-5, atol=1e-6
        )


def test_a_kernel_gets_the_rows_and_heads_of_its_device():
    seen = []

    def kernel(x, y):
        seen.append((x.shape, y.shape))
        return x + y[:, None, None]

    x, y = np.arange(96.0).reshape(8, 6, 2), np.arange(8.0)
    with jax.set_mesh(make_mesh(data=2, fsdp=2, tensor=2)):
        local = on_each_device(kernel, [("tensor", None), ()], ("tensor", None))
        np.testing.assert_array_equal(jax.jit(local)(x, y), x + y[:, None, None])
    assert seen == [((2, 3, 2), (2,))]


def test_a_dimension_that_its_mesh_axis_does_not_divide_is_named_in_one_line(params):
    with pytest.raises(ValueError, match=r"layers/k/kernel \(2, 16, 2, 8\): mesh axis tensor=4 doesn't divide 2$"):
        param_specs(params, make_mesh(2, 1, 4))


def test_a_mesh_of_some_of_the_devices():
    mesh = make_mesh(data=1, tensor=2, devices=jax.devices()[:2])
    assert mesh.size == 2
