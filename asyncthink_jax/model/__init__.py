"""The transformer: one forward for training (packed rows) and for decoding (key/value cache)."""
