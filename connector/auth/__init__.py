"""Signing in to services: one module for each identity system, and the file their tokens outlive a run in."""
