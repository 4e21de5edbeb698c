"""Benchmarks: one file a question, each of which writes one JSON file; `table.py` makes the Markdown table of them.

Rules of every comparison: the same sizes and fp32 on both sides, the same lengths forced, as many threads; both sides
in one run, in turn, compilation and warm-up apart; the median of several rounds. A peer runs in a process of its own,
in a virtual environment of its own (`make bench-peers`), and takes its times itself.
"""
