"""The training room: loading models, encoding rows, planning, the run folder."""
