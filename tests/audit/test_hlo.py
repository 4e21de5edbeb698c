# ruff: noqa: E501
"""The audit of compiled programs: bytes that go to and come from main memory."""

import jax
import jax.numpy as jnp
import pytest

from asyncthink_jax.audit import hlo

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
    assert hlo.collectives(program, "body") == {"all-reduce": (1, 8 * 500 * 4)}
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


# A loop as `jax.lax.scan` counts it: it gathers its weights in an asynchronous fusion, whose three parts name the same
# channel, and scatters a sum. The kernel's attributes go on over several lines.
SCAN = """HloModule scan

%gather-start (p.0: bf16[8,64]) -> (bf16[8,64], bf16[16,64]) {
  %p.0 = bf16[8,64]{1,0} parameter(0)
  %all-gather.1 = bf16[16,64]{1,0} all-gather(%p.0), channel_id=7, replica_groups={{0,1}}, dimensions={0}
  ROOT %start = (bf16[8,64]{1,0}, bf16[16,64]{1,0}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%gather-done (p.1: bf16[16,64]) -> bf16[16,64] {
  %p.1 = bf16[16,64]{1,0} parameter(0)
  %all-gather.2 = bf16[16,64]{1,0} all-gather(%p.1), channel_id=7, replica_groups={{0,1}}, dimensions={0}
  ROOT %done = bf16[16,64]{1,0} custom-call(%p.1, %all-gather.2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.3 (p.2: f32[16,64]) -> f32[8,64] {
  %p.2 = f32[16,64]{1,0} parameter(0)
  %all-reduce.3 = f32[16,64]{1,0} all-reduce(%p.2), channel_id=9, replica_groups={{0,1}}, to_apply=%add
  ROOT %slice = f32[8,64]{1,0} dynamic-slice(%all-reduce.3), dynamic_slice_sizes={8,64}
}

%body (state: (s32[], bf16[8,64], f32[16,64])) -> (s32[], bf16[8,64], f32[16,64]) {
  %state = (s32[], bf16[8,64]{1,0}, f32[16,64]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %w = bf16[8,64]{1,0} get-tuple-element(%state), index=1
  %g = f32[16,64]{1,0} get-tuple-element(%state), index=2
  %a = (bf16[8,64]{1,0}, bf16[16,64]{1,0}) fusion(%w), kind=kCustom, calls=%gather-start
  %b = bf16[16,64]{1,0} get-tuple-element(%a), index=1
  %kernel = f32[16,64]{1,0} custom-call(%g), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
}}, metadata={op_name="jit(f)/step_1/kernel"}
  %c = bf16[16,64]{1,0} fusion(%b), kind=kCustom, calls=%gather-done, metadata={op_name="jit(f)/step_1/dot"}
  %d = f32[8,64]{1,0} fusion(%kernel), kind=kCustom, calls=%all-reduce-scatter.3
  ROOT %tuple = (s32[], bf16[8,64]{1,0}, f32[16,64]{1,0}) tuple(%i, %w, %kernel)
}

%condition (state: (s32[], bf16[8,64], f32[16,64])) -> pred[] {
  %state.1 = (s32[], bf16[8,64]{1,0}, f32[16,64]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(36)
  ROOT %lt = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (a: (s32[], bf16[8,64], f32[16,64])) -> (s32[], bf16[8,64], f32[16,64]) {
  %a = (s32[], bf16[8,64]{1,0}, f32[16,64]{1,0}) parameter(0)
  ROOT %loop = (s32[], bf16[8,64]{1,0}, f32[16,64]{1,0}) while(%a), condition=%condition, body=%body
}
"""


def test_collectives_are_counted_once_and_as_often_as_their_loop_runs():
    program = hlo.parse(SCAN)
    assert hlo.entry(program) == "main"
    found = hlo.collectives(program, hlo.entry(program))
    assert found == {"all-gather": (36, 36 * 16 * 64 * 2), "reduce-scatter": (36, 36 * 8 * 64 * 4)}
    assert hlo.loop_of_scope(program, "step_1") == "body"
    with pytest.raises(ValueError, match="no loop in the scope step_2"):
        hlo.loop_of_scope(program, "step_2")


def test_a_loop_whose_count_only_a_run_knows_counts_as_often_as_it_is_told():
    program = hlo.parse(SCAN.replace("compare(%i.1, %limit)", "compare(%i.1, %i.1)"))
    assert hlo.collectives(program, "main", unknown_trips=4)["all-gather"] == (4, 4 * 16 * 64 * 2)


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ("Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded", 20.5 * 2**30),
        ("required for HLO temporaries (512.00M) exceeds available HBM (15.75G).", 512 * 2**20),
        ("Mosaic failed to compile", None),
    ],
)
def test_a_refusal_for_lack_of_memory_names_the_size(message, size):
    assert hlo.memory_refused(message) == size
