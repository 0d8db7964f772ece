"""The socket: running uvicorn, and limits on connections."""
