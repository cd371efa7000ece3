"""Flower's SuperLink and SuperNode, started by `federated.environment.running`.

A script, not a module: neither kerasreg nor TensorFlow is imported, which would take
hundreds of megabytes.

The SuperLink of Flower 1.42 has one port for all: the nodes' part (Fleet API), and the
part that runs are submitted to (Control API) or executed by (Runtime API), which asks
nobody who they are. Whoever submits a run has its code executed. So that port is bound
to this machine alone, and another one, the only one that is public, has the nodes' part
and nothing else: whatever forwards to it, it leads no further.
"""

import asyncio
import contextlib
import os
import socket
import sys
import threading

import uvicorn

OPEN = ("/v1/fleet/", "/health")
_opened = threading.Event()


class Gate:
    """ASGI middleware that passes on what nodes need, and refuses all else.

    Args:
        app: The ASGI application behind it.
    """

    def __init__(self, app):
        self._app = app

    async def __call__(self, scope, receive, send):
        """Pass a request on, or answer it with 403."""
        if scope["type"] == "http" and scope["path"].startswith(OPEN):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        plain = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 403, "headers": plain})
        body = b"Only nodes are served here."
        await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    """A server beside another one, whose signals it leaves alone."""

    def capture_signals(self):
        return contextlib.nullcontext()


def listening(host, port):
    """A socket at the public address; `host` is "" for all addresses.

    Raises:
        OSError: If it cannot be had.
    """
    if not host and socket.has_dualstack_ipv6():
        family = socket.AF_INET6
        return socket.create_server(("", port), family=family, dualstack_ipv6=True)
    found = socket.getaddrinfo(
        host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, address = found[0][0], found[0][4]
    return socket.create_server((str(address[0]), port), family=family)


def public(listener, options):
    """A part of the SuperLink's life in which nodes are served, once they may come.

    Args:
        listener: The public socket.
        options: Further settings of `uvicorn.Config`.
    """

    @contextlib.asynccontextmanager
    async def life(app):
        config = uvicorn.Config(
            Gate(app),
            log_config=None,
            lifespan="off",
            proxy_headers=False,
            timeout_graceful_shutdown=5,
            **options,
        )
        server = _Server(config)

        async def serve():
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, _opened.wait)
            if not server.should_exit:
                await server.serve(sockets=[listener])

        serving = asyncio.create_task(serve())
        yield {}
        server.should_exit = True
        _opened.set()
        await serving

    return life


def _obey():
    """Do what the parent writes, and end with it, even if it was killed."""
    for line in sys.stdin:
        if line == "open\n":
            _opened.set()
    os._exit(1)


def _superlink(host, port, arguments):
    from flwr.superlink import extensions
    from flwr.superlink.cli import flower_superlink

    if port:
        try:
            listener = listening(host, int(port))
        except OSError as error:
            where = f"{host or 'all addresses'}, port {port}"
            sys.exit(f"Cannot listen at {where}: {error.strerror or error}")
        files = {"ssl_certfile": "--ssl-certfile", "ssl_keyfile": "--ssl-keyfile"}
        tls = {
            name: arguments[arguments.index(option) + 1]
            for name, option in files.items()
            if option in arguments
        }
        life = public(listener, tls)
        extensions.get_lifespan_contexts = lambda: (life,)
    flower_superlink()


def main():
    """`child.py PROGRAM PUBLIC_HOST PUBLIC_PORT ARGUMENT...`, until the parent ends."""
    program, host, port, *arguments = sys.argv[1:]
    sys.argv = [f"flower-{program}", *arguments]
    threading.Thread(target=_obey, daemon=True).start()
    if program == "superlink":
        _superlink(host, port, arguments)
    else:
        from flwr.supernode.cli import flower_supernode

        flower_supernode()


if __name__ == "__main__":
    main()
