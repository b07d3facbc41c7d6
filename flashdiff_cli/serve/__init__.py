"""The local web page and HTTP API: the same verb behind other doors."""
