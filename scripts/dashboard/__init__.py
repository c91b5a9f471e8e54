"""The panel: one page over the runs and versions of this checkout, and the training API."""
