"""Tasks with prerequisites and one state file, and the trip that runs them on a host."""
