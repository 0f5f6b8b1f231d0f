"""What a daemon says its own address is."""

import socket

import pytest

from madang.daemon.main import _url_of


@pytest.mark.parametrize(
    ("family", "host", "said"),
    [
        (socket.AF_INET, "127.0.0.1", "http://127.0.0.1:{}"),
        (socket.AF_INET, "0.0.0.0", "http://127.0.0.1:{}"),
        (socket.AF_INET6, "::1", "http://[::1]:{}"),
        (socket.AF_INET6, "::", "http://[::1]:{}"),
    ],
)
def test_a_daemon_on_every_address_is_reached_here_by_loopback(family, host, said):
    with socket.socket(family, socket.SOCK_STREAM) as door:
        try:
            door.bind((host, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        assert _url_of(door) == said.format(door.getsockname()[1])
