import socket

import pytest

from tests.support.ports import free_port, free_ports


def test_ports_are_free_and_none_that_a_system_or_ray_gives_unasked():
    ports = free_ports(50)
    assert len(set(ports)) == 50
    for port in ports:
        assert 20_000 <= port < 32_768
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_a_port_that_is_taken_is_not_drawn(monkeypatch):
    with socket.create_server(("127.0.0.1", free_port())) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr("tests.support.ports._CANDIDATES", range(taken, taken + 1))
        with pytest.raises(AssertionError, match="0 of 1 ports"):
            free_ports(1)


def test_ports_of_datagrams_are_drawn_by_themselves():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", free_port(socket.SOCK_DGRAM)))
