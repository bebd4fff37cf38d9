"""The same learning through mnemo's learner and inside Avalanche, side by side."""
