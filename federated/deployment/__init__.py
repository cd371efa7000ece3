"""A federation between machines: `kerasreg federated server` and `client`."""
