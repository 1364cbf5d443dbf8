"""What benchmarks share: sides in processes of their own, options, cases, records."""
