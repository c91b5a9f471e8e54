"""Documents: read, cut, stored in Chroma, asked about."""
