"""What a config will cost: documents, tokens, student runs, hours, disk."""
