"""The agent: a child process that talks to the fleet and trains. Only `node`, `child` and `client_app` load Flower or torch."""
