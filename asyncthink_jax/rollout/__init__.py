"""Fork-join rollouts on the accelerator: one jitted loop decodes every agent of every episode."""
