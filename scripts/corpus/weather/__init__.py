"""Generated weather dialogues."""
