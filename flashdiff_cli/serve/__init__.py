"""The local web page and HTTP API: the same operation as `flashdiff restore`."""
