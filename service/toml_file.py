"""Files of TOML that the service starts with, checked against a model."""

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from .errors import StartError, complaint

Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path, kind: type[Model]) -> Model:
    """The content of a file.

    Raises:
        StartError: it cannot be read, is no TOML, or is not as it should be.

    """
    try:
        return kind.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        raise StartError(f"{path}: {complaint(error, 'the file')}") from None
    except ValueError as error:
        raise StartError(f"{path}: is no TOML: {error}") from None
