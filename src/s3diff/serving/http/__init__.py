"""The HTTP interface: routes, schemas, middleware, the server."""
