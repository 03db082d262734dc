"""What single endpoints cannot be limited by."""

import pytest

from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.limiting import EndpointLimit


def test_a_limit_with_an_end_belongs_into_the_settings() -> None:
    """It would hold for ever here, so that it is refused where it is declared."""
    ending = {"limit": "9/minute", "until": "2090-12-24"}

    with pytest.raises(ConfigurationError, match="no limit with an end"):
        EndpointLimit.parse((ending,), name="x")  # type: ignore[arg-type]
