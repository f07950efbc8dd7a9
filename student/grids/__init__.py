"""Grids of colours as text, changes of them that can be undone, and the tasks that are made of them."""
