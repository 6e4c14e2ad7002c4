"""`package.module:factory`: the user's module, made by the user's own code."""

import importlib

from torch import nn

from gatestream.export.errors import SourceError


def make(source: str) -> nn.Module:
    """Import a module of Python and have it make a module of torch, in evaluation mode.

    Args:
        source: "package.module:factory"; the factory is a class or function that is called with nothing, or a module
            that is there already.

    Raises:
        SourceError: it cannot be imported, there is no such factory, or what it gives is no `nn.Module`.
    """
    place, _, path = source.partition(":")
    try:
        found: object = importlib.import_module(place)
        for part in path.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise SourceError(f"{source}: {place} cannot be imported: {error}") from error
    except AttributeError as error:
        raise SourceError(f"{source}: {place} has no {path}") from error
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise SourceError(f"{source}: {path} is a {type(found).__name__}, neither an nn.Module nor what makes one")
        try:
            found = found()
        except Exception as error:  # whatever the user's code raises
            raise SourceError(f"{source}: calling {path}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, nn.Module):
        raise SourceError(f"{source}: {path}() gives a {type(found).__name__}, expected an nn.Module")
    return found.eval()
