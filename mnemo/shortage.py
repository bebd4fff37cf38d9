"""Too little memory, whoever says so: Python, numpy, torch or the loader of libraries."""

SAID = (
    "ALLOC_FAILED",  # cuBLAS and cuDNN
    "allocate memory",
    "bad_alloc",
    "can't start new thread",
    "could not create a primitive",  # oneDNN, which has no room for its code
    "failed to map segment",
    "not enough memory",
    "out of memory",
)


def of_memory(error: BaseException) -> bool:
    """Whether an error means that there is too little memory."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in SAID)


def line(error: BaseException) -> str:
    """What is told of it."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return f"too little memory ({reason}); a smaller batch_size needs less, and --resume goes on"
