"""What scripted episodes are written in: a vocabulary of a few words, tags whole and in pieces, and random scripts."""

from hypothesis import strategies as st

from asyncthink_jax.protocol.grammar import tag_literals
from asyncthink_jax.protocol.wire import Wire

WORDS = [
    s.encode() for s in [*tag_literals(3), "<FORK-9>", "<JOIN-0>", " a", " b", " c", "<ANS", "<", ":", "work", "solve"]
]
WORDS.append(b"")  # end-of-text
EOS = len(WORDS) - 1
BYTES = [bytes([b]) for b in range(256)]


def encode(text, vocabulary=WORDS):
    """Longest match first."""
    data, tokens = text.encode(), []
    while data:
        token = max(
            (t for t in range(len(vocabulary)) if vocabulary[t] and data.startswith(vocabulary[t])),
            key=lambda t: len(vocabulary[t]),
        )
        tokens.append(token)
        data = data[len(vocabulary[token]) :]
    return tokens


def decode(tokens, vocabulary=WORDS):
    return b"".join(vocabulary[t] for t in tokens).decode()


CLOSE_JOIN = {i: encode(f"</JOIN-{i}>") for i in (1, 2, 3)}


def wire_of(grammar, vocabulary=WORDS, prefix="work", suffix=":", stop_ids=()):
    """The protocol in the tokens of a vocabulary; prefix and suffix are text."""
    closers = {i: encode(f"</JOIN-{i}>", vocabulary) for i in range(1, grammar.max_forks + 1)}
    return Wire(grammar, vocabulary, encode(prefix, vocabulary), encode(suffix, vocabulary), closers, stop_ids)


texts = st.sampled_from(["", " a", " b c", " a a a", "<ANS", " a<"])
mostly = st.sampled_from([True] * 15 + [False])
any_tokens = st.lists(st.integers(0, EOS), max_size=3)


@st.composite
def organizer_scripts(draw, capacity):
    """Thinks, forks and joins mostly where that is legal, with random tokens thrown in now and then."""
    script, unused, active = [], [1, 2, 3], []
    for _ in range(draw(st.integers(0, 8))):
        script += encode(draw(texts)) if draw(mostly) else draw(any_tokens)
        if active and (len(active) >= capacity - 1 or not unused or draw(st.booleans())):
            script += encode(f"<JOIN-{active.pop(draw(st.integers(0, len(active) - 1)))}>")
        elif unused and len(active) < capacity - 1:
            active.append(unused.pop(draw(st.integers(0, len(unused) - 1))))
            script += encode(f"<FORK-{active[-1]}>{draw(texts)}</FORK-{active[-1]}>")
    return [*script, *encode(f"<ANSWER>{draw(texts)}</ANSWER>")]


@st.composite
def worker_scripts(draw):
    thoughts = encode(draw(texts) * draw(st.integers(0, 4))) if draw(mostly) else draw(any_tokens)
    takeaways = encode(draw(texts)) if draw(mostly) else draw(any_tokens)
    return [*thoughts, *encode("<RETURN>"), *takeaways, *(encode("</RETURN>") if draw(mostly) else [EOS])]
