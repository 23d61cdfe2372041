"""From what was understood to what is done: rules, and the choice."""
