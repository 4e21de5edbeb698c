"""The two stages (SFT, RL), their optimizer and state."""
