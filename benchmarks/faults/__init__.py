"""A campaign of faults: what is promised of kills, disks, memory and broken numbers, tried many times at random."""
