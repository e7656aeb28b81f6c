"""Learning: policies, their training and their execution. Knows the episode file, never the simulator."""
