"""The fork-join protocol of AsyncThink in pure Python and NumPy: no JAX below this folder.

grammar.py      the tags and what each may do where: the definition, on plain text
automaton.py    the same tags as a byte-level automaton, lifted to the tokens of any tokenizer
cache.py        the lifted automaton of a large vocabulary, kept on disk
episode.py      Trace and Episode, the critical path and the concurrency ratio
interpreter.py  one episode, token by token, with any model: the reference for the engine
prompts.py      the text around a query and around a sub-query
"""
