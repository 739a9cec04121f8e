"""Serve the web page: plain HTML, CSS and modules over the service's HTTP interface."""
