"""Document to prompt: rewriting strategies, and the defence against prompt injections."""
