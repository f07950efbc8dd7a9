"""Gains of rewrites that users bring in a file."""
