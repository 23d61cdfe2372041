"""The example domain: intents, wording, rules and destinations as YAML, and the code that reads the destinations."""
