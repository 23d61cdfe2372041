"""Everything that bounds, spends, records and proves privacy. Imports `shared_models` only."""
