"""Serve HTTP: routes, schemas, middleware, the server."""
