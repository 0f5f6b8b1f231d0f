"""The HTTP API: requests in, rows out. It decides nothing and writes nothing but tokens.

`madang.api.app.create_app(yard, settings)` makes the application, `madang.api.server.make_server`
serves it within limits. What it needs of the daemon is `madang.api.yard.Yard`.
"""
