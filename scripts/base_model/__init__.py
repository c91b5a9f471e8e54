"""Base models: where one lies, which one it is, its tokenizer and template, loading it."""
