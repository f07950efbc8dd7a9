"""Document to prompt: ways of rewriting, and the defence against documents that give orders."""
