"""Trains and examines many students at once: texts to tokens, rows, adapters, losses, exams."""
