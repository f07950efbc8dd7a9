"""The rounds of a run, from documents to the kept checkpoint."""
