"""The library's exceptions: everything that a caller may want to catch, and nothing else."""


class LcclError(Exception):
    """Base of every error this library raises on purpose. Its text says what to do."""


class ArchitectureError(LcclError):
    """An unknown network, block form or gate, or one that does not fit its convolution."""


class BundleError(LcclError):
    """A bundle that is broken, foreign, or does not match its own hashes."""


class DataError(LcclError):
    """A data set that is missing, damaged, or not the one that a bundle was made from."""


class EngineError(LcclError):
    """A device, engine or precision that is not to be had here."""


class ImageError(LcclError):
    """An encoded image that cannot be used."""


class NotAnImageError(ImageError):
    """Bytes that are no image of a format that is read here."""


class UnsupportedImageError(NotAnImageError):
    """An image in a known format, but in a form of it that is not decoded here."""


class ImageTooLargeError(ImageError):
    """An image with too many pixels."""


class DamagedImageError(ImageError):
    """An image in a known format that is cut short or corrupt."""


class InputError(LcclError):
    """Images or run options of the wrong shape, type or range."""


class QualityError(LcclError):
    """A quality request that contradicts itself or lies outside what the model offers."""


class QuantisationError(LcclError):
    """Scales or integer weights that cannot be used, or a network that cannot be quantised."""


class WeightsError(LcclError):
    """Weights that are no plain ResNet of this project's, or cannot be read."""


def require(error: type[Exception], *checks: tuple[object, str]) -> None:
    """Raise ``error`` with the sentence of the first check that does not hold; all are evaluated before."""
    for holds, sentence in checks:
        if not holds:
            raise error(sentence)
