"""Questions for documents that bring none, written by a model or by rule and kept in a file."""
