"""Processes of the aggregator that answer over HTTP."""
