"""The tasks: problems, prompts, demonstrations and scoring. Pure Python and NumPy."""
