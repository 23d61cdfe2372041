"""The ClientApp that a stock SuperNode loads in tests: an honest port in Flower's own client process, found by node config."""

from __future__ import annotations

from fleet_devices import HonestPort
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from light_agent import handler_for

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    return handler_for(HonestPort(int(str(context.node_config["seed"]))))(message, context)
