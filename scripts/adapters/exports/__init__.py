"""Exports of a version."""
