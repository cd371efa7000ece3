"""Who reaches which part of the SuperLink."""

import asyncio

import pytest

from federated.child import Gate

HERE, ELSEWHERE = ("127.0.0.1", 5000), ("10.0.0.7", 5000)


def ask(path, client, server=("10.0.0.5", 8000), kind="http"):
    """What is sent in answer; "passed on" if the gate lets it through."""
    sent = []

    async def app(scope, receive, send):
        sent.append("passed on")

    async def send(message):
        sent.append(message.get("status", message.get("code", message.get("body"))))

    scope = {"type": kind, "path": path, "client": client, "server": server}
    asyncio.run(Gate(app)(scope, None, send))
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
def test_other_machines_cannot_submit_or_execute(path):
    assert ask(path, ELSEWHERE) == 403
    assert ask(path, HERE) == "passed on"


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/health"])
def test_nodes_come_through(path):
    assert ask(path, ELSEWHERE) == "passed on"


@pytest.mark.parametrize(
    ("client", "here"),
    [
        (("127.0.0.2", 1), True),
        (("::1", 1), True),
        (("::ffff:127.0.0.1", 1), True),
        (("10.0.0.5", 1), True),  # the server's own address
        (("::ffff:10.0.0.7", 1), False),
        (("fe80::1", 1), False),
        (("localhost", 1), False),
        (None, False),
        ((), False),
    ],
)
def test_which_machine_is_this_one(client, here):
    assert (ask("/v1/control/start-run", client) == "passed on") is here


def test_other_kinds_of_requests():
    assert ask("/v1/fleet/x", ELSEWHERE, kind="websocket") == 1008
    assert ask("", None, kind="lifespan") == "passed on"


def test_flower_has_the_routes_it_is_built_on():
    """The parts that are open are the fleet's alone; a new version may move them."""
    from flwr.superlink import extensions
    from flwr.superlink.routers.control import router as control
    from flwr.superlink.routers.fleet.router import router as fleet

    assert callable(extensions.get_middleware)
    assert fleet.prefix == "/v1/fleet"
    assert control.prefix == "/v1/control"
