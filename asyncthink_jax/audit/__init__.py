"""What the programs of a run cost on chips that need not be here: formulas, and what compilers say."""
