"""Jobs that run on a host."""
