"""Asking a model something: its engine, scored episodes of problems, and one question at a time. No optimizer."""
