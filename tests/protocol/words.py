"""A vocabulary of a few words, tags whole and in pieces among them, for scripted episodes."""

from asyncthink_jax.protocol.grammar import tag_literals

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
