"""Cold-start data written by another language model (paper, section 3), against any OpenAI-compatible endpoint.

plans.py      action sequences, sampled at random, that the model is asked to follow
questions.py  what the model is asked in each of the two steps, from files
judge.py      what it wrote, read, and held to the protocol, the budgets and the task's score
endpoint.py   one question: sent again where that may help, and what ends the whole run
journal.py    every answer that has been paid for, kept in a file as it comes
costs.py      tokens and money, before and after
run.py        the problems, the two questions about each, many at a time
"""
