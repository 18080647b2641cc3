"""Long trials of what a run meets: `make torture`. Short versions of them are among the tests."""
