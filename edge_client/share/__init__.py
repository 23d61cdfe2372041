"""What leaves a device, and how: contributions, the port that rounds talk to, the agent that carries them. Light to import."""
