"""What a run shows: metrics files, progress, tables, figures, the timeline of an episode."""
