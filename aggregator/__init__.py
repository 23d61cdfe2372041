"""The central side: rounds over a fleet, releases, proofs, publishing and the services that devices reach."""
