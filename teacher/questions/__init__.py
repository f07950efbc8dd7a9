"""Questions for documents that bring none, written by a model and kept in a file."""
