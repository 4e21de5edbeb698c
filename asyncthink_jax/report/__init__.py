"""What a run shows: tables, figures, the timeline of an episode."""
