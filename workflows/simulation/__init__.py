"""Features simulated on real annotations: docs/simulation.md."""
