"""One click command per pipeline stage: load, call one library function, write."""
