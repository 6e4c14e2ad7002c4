import importlib

import click
import pytest

from gatestream.cli.extras import needing


def test_what_is_not_installed_is_named_with_what_to_install() -> None:
    said = r"^drawing needs nothing_like_it, which is not installed: pip install x$"
    with pytest.raises(click.ClickException, match=said), needing("drawing", "x"):
        importlib.import_module("nothing_like_it.at_all")


def test_a_module_of_our_own_that_is_missing_is_a_fault_of_ours() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"gatestream\.nothing"), needing("drawing", "x"):
        importlib.import_module("gatestream.nothing")
