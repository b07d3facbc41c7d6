<<<<<<< HEAD
"""Experiments: pictures degraded by a protocol, every arm on the same measurements, records, tables and figures."""
=======
"""Experiments: the paper's tables and figures for any model, operator and solver."""
>>>>>>> figures
