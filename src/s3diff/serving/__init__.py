"""Serve restorations: jobs, the HTTP interface and the web page. Needs the extra ``web``."""
