"""Experiments: protocols, arms, measures, tables, figures and the page of a bench."""
