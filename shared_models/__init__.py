"""The vocabulary of Tacit and its models. Imports no other package of this project."""
