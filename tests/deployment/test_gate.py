"""Who reaches which part of the SuperLink."""

import asyncio
import http.client
import os
import socket

import pytest

from federated.child import Gate, listening
from federated.environment import admit, await_port, free_port, running


def ask(path, kind="http"):
    """What is sent in answer; "passed on" if the gate lets it through."""
    sent = []

    async def app(scope, receive, send):
        sent.append("passed on")

    async def send(message):
        sent.append(message.get("status", message.get("code", message.get("body"))))

    asyncio.run(Gate(app)({"type": kind, "path": path}, None, send))
    return sent[0]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/docs",
        "/openapi.json",
        "/v1/fleetx",
        "/V1/fleet/get-run",
        "//v1/fleet/get-run",
        "",
    ],
)
def test_nobody_submits_or_executes_by_the_public_port(path):
    assert ask(path) == 403


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/health"])
def test_nodes_come_through(path):
    assert ask(path) == "passed on"


def test_other_kinds_of_requests():
    assert ask("/v1/fleet/x", kind="websocket") == 1008


def test_flower_has_the_routes_it_is_built_on():
    """The parts that are open are the fleet's alone; a new version may move them."""
    from flwr.superlink import extensions
    from flwr.superlink.routers.control import router as control
    from flwr.superlink.routers.fleet.router import router as fleet

    assert callable(extensions.get_lifespan_contexts)
    assert fleet.prefix == "/v1/fleet"
    assert control.prefix == "/v1/control"


def status(port, path, timeout=5, **headers):
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    link.request("POST", path, headers=headers)
    return link.getresponse().status


@pytest.fixture(scope="module")
def superlink(tmp_path_factory):
    """A real one, and its private and public ports."""
    environment = {**os.environ, "FLWR_HOME": str(tmp_path_factory.mktemp("flwr"))}
    environment |= {"FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_LOG_LEVEL": "WARNING"}
    private, public = free_port(), free_port()
    arguments = ["--insecure", "--host", "127.0.0.1", "--port", str(private)]
    arguments += ["--isolation", "process"]
    where = ("127.0.0.1", public)
    with running("superlink", arguments, where, env=environment) as child:
        assert await_port(private, child)
        yield child, private, public


def test_nodes_wait_until_they_are_admitted(superlink):
    child, _, public = superlink
    with pytest.raises(TimeoutError):
        status(public, "/v1/fleet/get-run", timeout=1)
    admit(child)
    assert status(public, "/v1/fleet/get-run") != 403


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "Host"])
def test_no_header_opens_the_public_port(superlink, name):
    child, private, public = superlink
    admit(child)
    for path in ("/v1/control/list-runs", "/v1/runtime/acquire-task"):
        assert status(public, path, **{name: "127.0.0.1"}) == 403
        assert status(private, path) != 403


def test_it_ends_with_its_parent(superlink, tmp_path):
    """Even if the parent was killed: what it writes to has an end then."""
    with running("supernode", ["--insecure"], env=dict(os.environ)) as child:
        child.stdin.close()
        assert child.wait(30) == 1


def test_a_port_that_is_taken(capfd):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        where = ("127.0.0.1", port)
        with running("superlink", ["--insecure"], where, env=dict(os.environ)) as child:
            assert child.wait(30) == 1
    error = capfd.readouterr().err
    assert f"Cannot listen at 127.0.0.1, port {port}: " in error
    assert "in use" in error


@pytest.mark.parametrize("host", ["", "127.0.0.1", "127.0.0.2", "localhost"])
def test_where_it_listens(host):
    with listening(host, 0) as listener:
        port = listener.getsockname()[1]
        address = host or "127.0.0.1"
        socket.create_connection((address, port), 5).close()
        if host.startswith("127"):
            other = "127.0.0.3"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((other, port), 5)
