"""From files as people keep them to a corpus: folders, archives and packages in, JSONL shards of documents out."""
