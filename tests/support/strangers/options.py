"""What adopting has to be told of a stranger."""

from gatestream.export.adopting.options import Options
from tests.support.strangers.stranger import Stranger


def options(stranger: Stranger) -> Options:
    """All that the file itself does not say."""
    return Options(
        constants={**stranger.fixed, **dict.fromkeys(stranger.per_session)},
        context=stranger.context,
        windows=stranger.windows,
        **stranger.options,
    )
