"""What leaves a device, and how: the contributions, the port that a round talks to, the agent that carries it. Light to import."""
