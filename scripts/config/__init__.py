"""Configuration: YAML with positions, layers, schemas."""
