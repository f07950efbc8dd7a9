"""A finished dataset or teacher to the Hub: checks, card, push, verification."""
