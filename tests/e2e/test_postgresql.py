"""The same daemon on PostgreSQL: nothing acknowledged is lost when it is killed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from madang.testing.postgresql import Server, started
from tests.e2e.yard import LiveYard

pytestmark = pytest.mark.postgres
