"""Merges in one pass over the sources."""
