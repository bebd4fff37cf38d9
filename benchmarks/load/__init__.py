"""Whether images of ImageNet's size are decoded and loaded fast enough, and in little memory."""
