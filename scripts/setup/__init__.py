"""Building, verifying and publishing an environment."""
