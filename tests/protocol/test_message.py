"""Episodes as bytes between processes: the same in every value and type, and nothing but episodes."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncthink_jax.protocol.episode import Attempt, Episode, Event, Trace
from asyncthink_jax.protocol.message import COLUMNS, pack, unpack

number = st.integers(0, 2**31 - 1)
text = st.text() | st.sampled_from(["\ud800", "a\nb", "\x00\x1b[31m", "{}"])
some_json = st.dictionaries(text, st.none() | st.integers() | st.floats() | text | st.lists(st.floats(), max_size=2))


@st.composite
def traces(draw):
    rng = np.random.default_rng(draw(number))
    p, n = draw(st.integers(0, 5)), draw(st.integers(0, 5))

    def some(dtype, length):
        """Any bits, among them those of NaNs."""
        return rng.integers(0, 256, length * dtype.itemsize).astype(np.uint8).view(dtype).copy()

    lengths = dict.fromkeys(COLUMNS, n) | {"prompt": p}
    return Trace(
        role=draw(st.sampled_from(["organizer", "worker"])),
        fork_id=draw(st.none() | number),
        **{name: some(dtype, lengths[name]) for name, dtype in COLUMNS.items() if name != "sampled"},
        sampled=rng.random(n) < 0.5,
        events=draw(st.lists(st.builds(Event, st.sampled_from(["fork", "join"]), number, number), max_size=2)),
        end=draw(st.sampled_from(["answer", "return", "budget", "format_error", "stopped"])),
    )


episodes = st.builds(
    Episode,
    paradigm=st.sampled_from(["async", "sequential", "parallel"]),
    agents=number,
    traces=st.lists(traces(), max_size=3),
    answer=st.none() | text,
    format_error=st.none() | text,
    critical_path=number,
    concurrency=st.floats(),
)
attempts = st.builds(
    Attempt,
    task=text,
    problem=some_json,
    seed=number,
    episode=episodes,
    score=st.none() | some_json,
    reward=st.none() | st.floats(),
)


def plain(value):
    """A value with its type, and an array as its bytes: to be compared bit by bit."""
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.flags.writeable, value.tobytes())
    if dataclasses.is_dataclass(value):
        return (type(value), {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)})
    if isinstance(value, dict):
        return [(key, plain(one)) for key, one in value.items()]
    if isinstance(value, list):
        return [plain(one) for one in value]
    return (type(value), repr(value))


def one_episode(**changes):
    trace = Trace(
        role="organizer",
        fork_id=None,
        prompt=np.array([1, 2, 3], np.int32),
        tokens=np.array([4, 5], np.int32),
        sampled=np.array([True, False]),
        logprobs=np.array([-0.5, 0], np.float32),
        steps=np.array([1, 2], np.int32),
        events=[Event("fork", 1, 1)],
        end="answer",
    )
    episode = Episode("async", 2, [dataclasses.replace(trace, **changes)], None, None, critical_path=2, concurrency=0.5)
    return Attempt("t", {}, 0, episode, score=None, reward=None)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.integers(0, 999_999_999), attempts, max_size=3))
def test_what_is_unpacked_is_what_was_packed_in_every_bit_and_type(items):
    assert plain(unpack(pack(items))) == plain(items)


def test_a_token_costs_13_bytes_and_an_episode_little_more():
    long = one_episode(**{name: np.zeros(4000, dtype) for name, dtype in COLUMNS.items() if name != "prompt"})
    assert len(pack({7: long})) < 13 * 4000 + 4 * 3 + 500


def test_an_array_of_another_type_is_not_sent_as_other_numbers():
    with pytest.raises(ValueError, match="a trace has logprobs of type float64, not float32"):
        pack({0: one_episode(logprobs=np.array([-0.5, 0]))})


def changed(change):
    """A message whose JSON `change` has changed, its arrays the same."""
    header, _, arrays = pack({3: one_episode()}).partition(b"\n")
    records = json.loads(header)
    change(records["3"])
    return json.dumps(records).encode() + b"\n" + arrays


def setting(where, name, value):
    def change(episode):
        {"episode": episode, "trace": episode["traces"][0], "event": episode["traces"][0]["events"][0]}[where][name] = (
            value
        )

    return changed(change)


class Runs:
    """What a pickle can hold: a call of anything."""

    def __reduce__(self):
        return (pytest.fail, ("it was called",))


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"", "no message of episodes"),
        (pickle.dumps({3: Runs()}), "no message of episodes"),
        (b"\xff\n", "no message of episodes"),
        (b"[" * 100_000 + b"\n", "no message of episodes"),
        (b'{"1": ' + b"9" * 5000 + b"}\n", "no message of episodes"),
        (b"[]\n", "does not begin with a line of numbered episodes"),
        (b"{}", "does not begin with a line of numbered episodes"),
        (b'{"-1": {}}\n', "does not begin with a line of numbered episodes"),
        (b'{"1": {}}\n', "episode 1 in a message has not the fields task"),
        (b"{}\nx", "has 1 bytes of arrays, where its lengths say 0"),
        (pack({3: one_episode()})[:-1], "bytes of arrays, where its lengths say 38"),
        (pack({3: one_episode()}) + b"x", "bytes of arrays, where its lengths say 38"),
        (setting("episode", "agents", True), "episode 3 in a message has agents of type bool"),
        (setting("episode", "traces", {}), "episode 3 in a message has traces of type dict"),
        (setting("episode", "__class__", "x"), "episode 3 in a message has not the fields"),
        (setting("trace", "tokens", 2**40), "where its lengths say"),
        (setting("trace", "prompt", -1), "a trace of episode 3 in a message has a negative length"),
        (setting("trace", "prompt", 1e3), "has prompt of type float"),
        (setting("trace", "role", "\x1b[2J"), r"has role '\\x1b\[2J' and end"),
        (setting("trace", "events", [1]), "an event of a trace of episode 3 in a message has not the fields"),
        (setting("event", "action", "exec"), "an event of a trace of episode 3 in a message is 'exec'"),
    ],
    ids=range(21),
)
def test_what_is_no_message_is_refused_in_a_line(message, says):
    with pytest.raises(ValueError, match=says) as raised:
        unpack(message)
    assert str(raised.value).isprintable() and len(str(raised.value)) < 300
