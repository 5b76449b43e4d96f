"""The proxy that the fault tests cut connections with does what they take it to do."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from faults.tcp_proxy import TcpProxy, running_proxy


@pytest.fixture
def way() -> Iterator[TcpProxy]:
    """A proxy in front of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo(connection: socket.socket) -> None:
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data)

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        with running_proxy(server.getsockname()[1]) as proxy:
            yield proxy
        server.shutdown(socket.SHUT_RDWR)


def connected(way: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", way.port), timeout=5)


def said_back(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    back = b""
    while len(back) < len(data) and (more := connection.recv(65536)):
        back += more
    return back


def test_it_passes_everything_on(way: TcpProxy):
    data = bytes(range(256)) * 4000
    with connected(way) as first, connected(way) as second:
        threading.Thread(target=first.sendall, args=(data,)).start()
        assert said_back(second, b"two") == b"two"
        back = b""
        while len(back) < len(data):
            back += first.recv(65536)
        assert back == data
    assert (way.opened, way.felt) == (2, 0)


def test_a_cut_breaks_what_is_open_and_refuses_what_comes(way: TcpProxy):
    with connected(way) as connection:
        said_back(connection, b"one")
        way.cut()
        assert_closed(connection)
    with connected(way) as connection:
        assert_closed(connection)
    assert (way.broken, way.refused) == (1, 1)
    way.restore()
    with connected(way) as connection:
        assert said_back(connection, b"two") == b"two"


def assert_closed(connection: socket.socket) -> None:
    try:
        assert connection.recv(10) == b""
    except ConnectionResetError:
        return


def test_a_stall_holds_what_is_sent_until_it_ends(way: TcpProxy):
    with connected(way) as connection:
        said_back(connection, b"one")
        way.stall()
        connection.sendall(b"two")
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(10)
        assert way.held == 1
        way.restore()
        connection.settimeout(5)
        assert connection.recv(10) == b"two"


def test_a_slow_way_takes_its_time_both_ways(way: TcpProxy):
    with connected(way) as connection:
        way.slow(0.2)
        began = time.monotonic()
        assert said_back(connection, b"one") == b"one"
        assert time.monotonic() - began >= 0.4
    assert way.slowed == 2
