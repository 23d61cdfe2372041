"""What is said to the user, and what the user says about it."""
