"""The adapters room: versions of adapters and what is done with them (docs/ADAPTERS.md)."""
