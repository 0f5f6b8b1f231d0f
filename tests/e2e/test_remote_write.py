"""The whole through real processes: VictoriaMetrics goes away for a while, agents send on, and the
daemon may be killed meanwhile. benchmarks/remote_write.py has the same at 10,000 GPUs and for five
minutes.
"""

from pathlib import Path

import pytest

from benchmarks.remote_write import run

pytestmark = [pytest.mark.metrics, pytest.mark.slow]


@pytest.mark.parametrize("kill", [False, True], ids=["daemon-lives", "daemon-killed"])
def test_what_was_acknowledged_while_the_receiver_was_away_is_there_once(
    tmp_path: Path, kill: bool
) -> None:
    outcome = run(tmp_path, nodes=50, outage_s=20.0, steady_s=5.0, kill=kill)

    assert outcome.is_whole, outcome
    assert outcome.acknowledged > 50 * 8 * 20 * 2
    assert outcome.series_compared >= 8 * 40
