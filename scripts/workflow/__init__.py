"""The training manager: stages with prerequisites, what they stand on, and one state file."""
