"""Reward models and the algorithms that learn from preferences or rewards, on TRL."""
