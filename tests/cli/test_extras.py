import click
import pytest

from gatestream.cli.extras import needing


def test_what_is_not_installed_is_named_with_what_to_install() -> None:
    with (
        pytest.raises(
            click.ClickException, match=r"^drawing needs nothing_like_it, which is not installed: pip install x$"
        ),
        needing("drawing", "x"),
    ):
        import nothing_like_it.at_all  # type: ignore[import-not-found]  # noqa: F401


def test_a_module_of_our_own_that_is_missing_is_a_fault_of_ours() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"gatestream\.nothing"), needing("drawing", "x"):
        import gatestream.nothing  # type: ignore[import-not-found]  # noqa: F401
