"""Everything about numbers and nothing about programs: bits, dtypes, metrics, fingerprints, ranges, thresholds."""
