"""Experiments: the paper's tables and figures for any model, operator and solver."""
