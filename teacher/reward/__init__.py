"""Rewrites to rewards: which student learns what, its exam, its gain."""
