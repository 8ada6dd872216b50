"""Decisions: plain functions of values, the time and a random generator. Nothing here acts.

Every default number is explained in docs/defaults.md.
"""
