"""Errors a user can act on: each message is one line that names what is wrong and the cure."""


class DprtError(Exception):
    """Base of every error that a command reports in one line, without a traceback."""


class SpecError(DprtError):
    """A policy specification that contradicts itself, or a value that does not fit it."""


class BundleError(DprtError):
    """A bundle that is missing, damaged, or of an unknown format."""


class EngineError(DprtError):
    """An engine that is not installed, or that cannot run this bundle."""


class DataError(DprtError):
    """A data set that is missing, damaged, or lacks a stream that was asked for."""


class FrameError(DprtError):
    """An image or state message that cannot become an observation; `kind` counts it."""

    def __init__(self, message: str, kind: str = 'damaged') -> None:
        super().__init__(message)
        self.kind = kind
