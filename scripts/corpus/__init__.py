"""From documents and tables to training rows: readers, cleaning, duplicates, split, recipes."""
