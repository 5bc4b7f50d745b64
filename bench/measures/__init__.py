"""What bench/run measures, a module for each kind."""
