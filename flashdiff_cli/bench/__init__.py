"""Experiments: pictures degraded by a protocol, every arm on the same measurements, records, tables and figures."""
