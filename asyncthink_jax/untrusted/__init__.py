"""Files that others made, read within limits: whatever stands in one, it takes little memory and little time."""
