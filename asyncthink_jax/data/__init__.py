"""Tokenizers and chat templates, the stored problems, and the iterators that turn them into packed training rows."""
