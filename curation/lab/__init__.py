"""The embedded lab: fictional people, tiny students and a tiny teacher, built from a seed without network or GPU."""
