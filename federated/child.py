"""Flower's SuperLink and SuperNode, started by `federated.environment.running`.

A script, not a module: neither kerasreg nor TensorFlow is imported, which would take
hundreds of megabytes.

The SuperLink of Flower 1.42 has one port for all: the nodes' part (Fleet API), and the
part that runs are submitted to (Control API) or executed by (Runtime API), which asks
nobody who they are. Whoever submits a run has its code executed. So other machines
reach the nodes' part alone, which is safe by the nodes' keys.
"""

import ipaddress
import sys

from flwr.supercore.app_utils import start_parent_process_monitor

OPEN = ("/v1/fleet/", "/health")


class Gate:
    """ASGI middleware that keeps other machines to what nodes need.

    Args:
        app: The ASGI application behind it.
    """

    def __init__(self, app):
        self._app = app

    async def __call__(self, scope, receive, send):
        """Pass a request on, or answer it with 403."""
        if scope["type"] == "lifespan" or _is_open(scope) or _is_here(scope):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        plain = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 403, "headers": plain})
        body = b"Runs are submitted on the server's own machine."
        await send({"type": "http.response.body", "body": body})


def _is_open(scope):
    return scope["type"] == "http" and scope["path"].startswith(OPEN)


def _is_here(scope):
    """Whether a request comes from this machine, at whichever of its addresses."""
    client, server = (scope.get(k) or ("",) for k in ("client", "server"))
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback or client[0] == server[0]


def main():
    """Run what the command line says, until it or the parent ends."""
    parent, program = sys.argv[1:3]
    start_parent_process_monitor(int(parent))
    sys.argv = [f"flower-{program}", *sys.argv[3:]]
    if program == "superlink":
        from flwr.superlink import extensions
        from flwr.superlink.cli import flower_superlink
        from starlette.middleware import Middleware

        extensions.get_middleware = lambda: (Middleware(Gate),)
        flower_superlink()
    else:
        from flwr.supernode.cli import flower_supernode

        flower_supernode()


if __name__ == "__main__":
    main()
