"""Long prompts: read at once, and once for all the episodes that have them.

The samples of a problem share its prompt. Each device keeps the keys and values of the prompts that it read last; an
episode that begins copies them to its organizer's row, and the loop goes on with the prompt's last token. A prompt that
is not kept is read by one forward pass of one row, whatever else is in the batch, so that an episode stays the same.

Shapes: S slots of a device, E kept prompts, P prompt tokens (the longest, rounded up).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

from asyncthink_jax.rollout.state import DecodingModel

ROUND_UP = 64  # prompt lengths are compiled in multiples of it


class Kept(struct.PyTreeNode):
    """The prompts that a device has read last."""

    cache: Any  # as of DecodingModel.prefill, an entry for each row
    prompt: Int[Array, "E"]  # which prompt an entry holds, -1 = none
    read: Int[Array, "E"]  # that it was the n-th to be read, from 1; 0 = none
    length: int = struct.field(pytree_node=False)  # P


def nothing_kept(model: DecodingModel, entries: int, length: int) -> Kept:
    """Room for `entries` prompts of at most `length` tokens."""
    assert model.prompt_cache is not None
    empty = jnp.zeros((entries,), jnp.int32)
    return Kept(cache=model.prompt_cache(entries, length), prompt=empty - 1, read=empty, length=length)


def begin(
    model: DecodingModel,
    params: Any,
    kept: Kept,
    cache: Any,
    begins: Bool[Array, "S"],
    prompt: Int[Array, "S"],
    tokens: Int[Array, "S P"],
) -> tuple[Kept, Any]:
    """Puts the keys and values of the prompts of the slots that begin into the organizers' rows of the cache.

    Args:
        prompt: number of each slot's prompt: equal numbers mean equal tokens.
        tokens: the prompts; what stands after their end is read too, and overwritten before anyone looks at it.
    """

    read_prompt, adopt = model.prefill, model.adopt
    assert read_prompt is not None and adopt is not None

    def held(kept: Kept) -> Bool[Array, "S E"]:
        return prompt[:, None] == kept.prompt[None, :]

    def read(kept: Kept, slot: Int[Array, ""]) -> Kept:
        new = read_prompt(params, jax.lax.dynamic_slice_in_dim(tokens, slot, 1))
        oldest = jnp.argmin(kept.read)
        put = lambda old, one: jax.lax.dynamic_update_slice_in_dim(old, one, oldest, 0)  # noqa: E731
        return kept.replace(
            cache=jax.tree.map(put, kept.cache, new),
            prompt=kept.prompt.at[oldest].set(prompt[slot]),
            read=kept.read.at[oldest].set(jnp.max(kept.read) + 1),
        )

    def some(carry: tuple[Kept, Any, Array]) -> tuple[Kept, Any, Array]:
        kept, cache, missing = carry
        unread = missing & ~jnp.any(held(kept), axis=1)
        kept = jax.lax.cond(jnp.any(unread), read, lambda kept, _: kept, kept, jnp.argmax(unread))
        here = held(kept)
        found = missing & jnp.any(here, axis=1)

        def adopt_one(carry: tuple[Any, Array]) -> tuple[Any, Array]:
            cache, found = carry
            slot = jnp.argmax(found)
            cache = adopt(cache, kept.cache, jnp.argmax(here[slot]), slot, len(found))
            return cache, found.at[slot].set(False)

        # One after the other, in place: of all slots at once the prompts' keys and values would be there a second time.
        cache, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[1]), adopt_one, (cache, found))
        return kept, cache, missing & ~found

    kept, cache, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[2]), some, (kept, cache, begins))
    return kept, cache
