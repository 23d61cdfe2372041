"""What the device knows: the encrypted store, the user's consents, the examples and intents of the user's own."""
