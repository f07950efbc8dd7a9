"""Texts that are ready without a teacher: what rules make of a document, and what documents bring."""
