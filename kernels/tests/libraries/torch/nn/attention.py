import contextlib


class SDPBackend:
    CUDNN_ATTENTION = "cudnn"


@contextlib.contextmanager
def sdpa_kernel(backend):
    raise RuntimeError("No available kernel. Aborting execution.\nMore words that nobody needs")
    yield
