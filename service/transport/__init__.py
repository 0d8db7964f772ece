"""The socket: how uvicorn is run, and what a connection may cost."""
