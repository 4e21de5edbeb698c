# ruff: noqa: E501
"""The audit of compiled programs: bytes that go to and come from main memory."""

import jax
import jax.numpy as jnp
import pytest

from asyncthink_jax.parallel import hlo

# One step of a decode loop as a TPU's compiler writes it: weights are prefetched to fast memory (S(1)) in two slices, a
# token's row is looked up, a key is written in place, a small state is copied out of fast memory.
STEP = """HloModule step

%lookup (p.0: bf16[1000,64], p.1: s32[8]) -> bf16[8,64] {
  %p.0 = bf16[1000,64]{1,0:T(8,128)} parameter(0)
  %p.1 = s32[8]{0:T(128)S(1)} parameter(1)
  ROOT %g = bf16[8,64]{1,0:T(8,128)S(1)} gather(%p.0, %p.1), offset_dims={1}
}

%update (p.0: bf16[8,32,64], p.1: bf16[8,1,64], p.2: s32[8]) -> bf16[8,32,64] {
  %p.0 = bf16[8,32,64]{2,1,0} parameter(0)
  %p.2 = s32[8]{0:S(1)} parameter(2)
  %p.1 = bf16[8,1,64]{2,1,0:S(1)} parameter(1)
  ROOT %s = bf16[8,32,64]{2,1,0} scatter(%p.0, %p.2, %p.1), to_apply=%add
}

%body (state: (s32[8], bf16[8,32,64], bf16[1000,64], f32[16,4])) -> (s32[8], bf16[8,32,64], bf16[1000,64], f32[16,4]) {
  %state = (s32[8]{0:S(1)}, bf16[8,32,64]{2,1,0}, bf16[1000,64]{1,0:T(8,128)}, f32[16,4]{1,0}) parameter(0)
  %ids = s32[8]{0:S(1)} get-tuple-element(%state), index=0
  %cache = bf16[8,32,64]{2,1,0} get-tuple-element(%state), index=1
  %table = bf16[1000,64]{1,0:T(8,128)} get-tuple-element(%state), index=2
  %small = f32[16,4]{1,0} get-tuple-element(%state), index=3
  %row = bf16[8,64]{1,0:T(8,128)S(1)} fusion(%table, %ids), kind=kCustom, calls=%lookup
  %slice-start = ((bf16[1000,64]{1,0}), bf16[500,64]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%table), slice={[0:500], [0:64]}
  %slice-done = bf16[500,64]{1,0:S(1)} slice-done(%slice-start)
  %product = f32[8,500]{1,0:S(1)} convolution(%row, %slice-done), dim_labels=bf_oi->bf
  %sum = f32[8,500]{1,0:S(1)} all-reduce(%product), replica_groups={{0,1}}, to_apply=%add
  %new = s32[8]{0:S(1)} custom-call(%sum), custom_call_target="argmax"
  %key = bf16[8,1,64]{2,1,0:S(1)} bitcast(%row)
  %written = bf16[8,32,64]{2,1,0} fusion(%cache, %key, %ids), kind=kCustom, calls=%update
  %copy-start = (f32[16,4]{1,0:S(1)}, f32[16,4]{1,0}, u32[]{:S(2)}) copy-start(%small)
  %copy-done = f32[16,4]{1,0:S(1)} copy-done(%copy-start)
  %plus = f32[16,4]{1,0} negate(%copy-done)
  ROOT %tuple = (s32[8]{0:S(1)}, bf16[8,32,64]{2,1,0}, bf16[1000,64]{1,0}, f32[16,4]{1,0}) tuple(%new, %written, %table, %plus)
}

%condition (state: (s32[8], bf16[8,32,64], bf16[1000,64], f32[16,4])) -> pred[] {
  %state.1 = (s32[8]{0}, bf16[8,32,64]{2,1,0}, bf16[1000,64]{1,0}, f32[16,4]{1,0}) parameter(0)
  ROOT %go = pred[]{:S(1)} constant(true)
}

ENTRY %main (a: (s32[8], bf16[8,32,64], bf16[1000,64], f32[16,4])) -> (s32[8], bf16[8,32,64], bf16[1000,64], f32[16,4]) {
  %a = (s32[8]{0}, bf16[8,32,64]{2,1,0}, bf16[1000,64]{1,0}, f32[16,4]{1,0}) parameter(0)
  ROOT %loop = (s32[8]{0}, bf16[8,32,64]{2,1,0}, bf16[1000,64]{1,0}, f32[16,4]{1,0}) while(%a), condition=%condition, body=%body
}
"""


def test_a_step_moves_what_it_takes_and_changes_and_nothing_of_what_stays_in_fast_memory():
    program = hlo.parse(STEP)
    assert hlo.innermost_loop(program) == "body"
    moved = hlo.traffic(program, "body")
    # Read: the looked up rows, half of the table, the small state. Written: one row of each cache, the small state.
    assert moved.read == 8 * 64 * 2 + 500 * 64 * 2 + 16 * 4 * 4
    assert moved.written == 8 * 64 * 2 + 16 * 4 * 4
    assert moved.collectives == {"all-reduce": (1, 8 * 500 * 4)}
    assert moved.by_opcode["slice-start"] == 500 * 64 * 2


def test_an_update_that_goes_through_fast_memory_counts_as_the_whole_array():
    there_and_back = STEP.replace(
        "  %written =",
        "  %there = (bf16[8,32,64]{2,1,0:S(1)}, bf16[8,32,64]{2,1,0}, u32[]{:S(2)}) copy-start(%cache)\n"
        "  %fast = bf16[8,32,64]{2,1,0:S(1)} copy-done(%there)\n"
        "  %back = (bf16[8,32,64]{2,1,0}, bf16[8,32,64]{2,1,0:S(1)}, u32[]{:S(2)}) copy-start(%fast)\n  %written =",
    )
    plain, more = (hlo.traffic(hlo.parse(text), "body") for text in (STEP, there_and_back))
    cache = 8 * 32 * 64 * 2
    assert (more.read - plain.read, more.written - plain.written) == (cache, cache)


def test_a_loop_counts_as_often_as_it_is_known_to_run():
    known = STEP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"3"}}')
    once, thrice = (hlo.traffic(hlo.parse(text), "main").total for text in (STEP, known))
    assert thrice == 3 * once == 3 * hlo.traffic(hlo.parse(STEP), "body").total


def test_a_program_without_a_loop_has_no_innermost_one():
    with pytest.raises(ValueError, match="no loop"):
        hlo.innermost_loop(hlo.parse(STEP.replace("while(", "custom-call(").replace("body=", "to=")))


def test_a_compiled_loop_reads_its_weights_once_a_step():
    size, rows = 256, 8

    def run(weights, x):
        return jax.lax.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, jnp.tanh(s[1] @ weights)), (0, x))

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((size, size), (rows, size))]
    program = hlo.parse(jax.jit(run).lower(*shapes).compile().as_text())
    moved = hlo.traffic(program, hlo.innermost_loop(program))
    weights, x = size * size * 4, rows * size * 4
    assert weights <= moved.total <= weights + 8 * x
