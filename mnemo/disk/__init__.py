"""What belongs to the disk: files that are whole or not there, documents, checksums, locks and checkpoints."""
