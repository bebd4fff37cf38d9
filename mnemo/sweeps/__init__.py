"""Several runs: what a file asks for, and how they run side by side here or on a cluster of Ray."""
