"""Benchmarks: one file for each question. Each writes one JSON file; `table.py` makes the Markdown table.

Rules of every comparison: both sides have the same sizes, fp32, the same forced lengths and the same number of threads.
They run in one command and take turns, without compilation and warm-up; the median of several rounds counts. A peer
runs in a process and a virtual environment of its own (`make bench-peers`), and measures its own times.
"""
