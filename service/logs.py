"""Logs as JSON, one object a line."""

from __future__ import annotations

import logging.config


def configure(level: str) -> None:
    """Send every logger's lines to standard output as JSON; requests are logged by the service itself."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "json": {
                    "()": "pythonjsonlogger.json.JsonFormatter",
                    "format": "%(asctime)s %(levelname)s %(name)s %(message)s",
                    "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
                }
            },
            "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "json"}},
            "root": {"handlers": ["out"], "level": level.upper()},
            "loggers": {"uvicorn.access": {"level": "WARNING"}},
        }
    )
