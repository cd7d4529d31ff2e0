"""Production kernels on shapes of `servesim calibrate bench`, on the same machine: PyTorch's products and attention, and
FlashAttention, FlashInfer and vLLM's kernels where they can be imported.

    python3 kernels/compare_libraries.py                              prints their times
    python3 kernels/compare_libraries.py measurements.csv             and the ratio to the rows that a bench wrote
    python3 kernels/compare_libraries.py measurements.csv --out F     and writes them to F as rows of a bench

Times as the bench does: CUDA graphs that follow each other, rotating inputs, random data, the median of twelve samples. What a library lacks is
named and left out. `--device cpu` runs small shapes on the CPU: whether the way works, not how fast anything is.
"""

import argparse
import csv
import importlib
import statistics
import time

import torch
import torch.nn.functional as F

COLUMNS = (
    "family dtype cache m n k tokens pairs chunks sequences context heads kv_heads head_dim window seconds "
    "spread_seconds source gpu software clocks note"
).split()
PAGE = 16
SAMPLES, CHAIN = 12, 4


class Bench:
    """Times calls on one device and keeps the rows."""

    def __init__(self, device, ours, path):
        self.is_gpu = device == "cuda"
        self.device = device
        self.ours = ours
        self.cache_bytes = 2 * torch.cuda.get_device_properties(0).L2_cache_size if self.is_gpu else 0
        self.gpu = torch.cuda.get_device_name(0) if self.is_gpu else "cpu"
        self.clocks = "as found, not locked" if self.is_gpu else "no GPU: times of the CPU"
        self.left_out = {}
        self.file = open(path, "w", newline="") if path else None
        self.writer = csv.DictWriter(self.file, COLUMNS, restval="") if path else None
        if self.writer:
            self.writer.writeheader()

    def random(self, *shape):
        return torch.rand(*shape, device=self.device, dtype=torch.bfloat16) * 2 - 1

    def integers(self, values):
        return torch.tensor(values, device=self.device, dtype=torch.int32)

    def samples(self, make, bytes_per_call):
        """Seconds per call of each sample, and whether they came from a graph; `make` gives a call on inputs of its own."""
        sets = max(1, min(16, -(-self.cache_bytes // max(1, int(bytes_per_call)))))
        calls = [make() for _ in range(sets)]
        for call in calls:
            call()
        if not self.is_gpu:
            return [self.on_host(call) for call in [calls[0]] * 3], False
        torch.cuda.synchronize()
        once = self.between(lambda: [call() for call in calls]) / sets
        count = max(sets, min(64, int(2e-3 / once) + 1) // sets * sets)

        def run():
            for number in range(count):
                calls[number % sets]()

        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
            replay, from_graph = graph.replay, True
        except Exception:
            torch.cuda.synchronize()
            replay, from_graph = run, False
        replay()
        return [seconds / count for _ in range(SAMPLES // CHAIN) for seconds in self.chain(replay)], from_graph

    def chain(self, work):
        """Times of `work`, several times after each other; the first is not timed, while it runs the host launches on."""
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(CHAIN + 1)]
        for mark in marks:
            work()
            mark.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) / 1e3 for begin, end in zip(marks, marks[1:])]

    def between(self, work):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3

    @staticmethod
    def on_host(call):
        begin = time.perf_counter()
        call()
        return max(time.perf_counter() - begin, 1e-9)

    def time(self, library, name, row, work, unit, make, bytes_per_call):
        """One line of the table, and one row; a library that lacks the call is left out with its words."""
        try:
            samples, from_graph = self.samples(make, bytes_per_call)
        except Exception as error:
            words = str(error).strip().splitlines() or [type(error).__name__]
            self.left_out.setdefault((library, row["family"], words[0][:140]), []).append(name)
            return
        seconds = statistics.median(samples)
        spread = statistics.median(abs(sample - seconds) for sample in samples)
        ours = self.ours.get(key_of(row))
        tail = f"{ours * 1e6:9.1f} {seconds / ours:7.2f}" if ours else f"{'-':>9} {'-':>7}"
        print(f"{name:<48} {library:<34} {seconds * 1e6:10.1f} {work / seconds / 1e12:8.2f} {unit} {tail}", flush=True)
        if self.writer and row.get("dtype") != "fp8":
            note = f"{len(samples)} samples" + ("" if from_graph else "; without a graph")
            self.writer.writerow(
                row
                | {
                    "seconds": repr(seconds),
                    "spread_seconds": repr(spread),
                    "source": "servesim compare_libraries.py",
                    "gpu": self.gpu,
                    "software": library,
                    "clocks": self.clocks,
                    "note": note,
                }
            )
            self.file.flush()


def key_of(row):
    """What identifies a row of either file, whatever the form of its numbers."""

    def plain(value):
        try:
            return float(value)
        except ValueError:
            return value

    skipped = COLUMNS[COLUMNS.index("seconds") :]
    return tuple((column, plain(row[column])) for column in COLUMNS if row.get(column, "") != "" and column not in skipped)


def rows_of(path):
    with open(path, newline="") as file:
        return {key_of(row): float(row["seconds"]) for row in csv.DictReader(file)}


def module(name):
    try:
        return importlib.import_module(name)
    except Exception:
        return None


def version(library):
    return getattr(library, "__version__", "of unknown version")


# Products.


def products(bench, rows, weights):
    name = f"PyTorch {torch.__version__} matmul"
    for n, k in weights:
        for m in rows:
            row = {"family": "gemm", "dtype": "bfloat16", "m": m, "n": n, "k": k}

            def make():
                a, w = bench.random(m, k), bench.random(n, k)
                return lambda: F.linear(a, w)

            size = 2 * (n * k + m * k + m * n)
            bench.time(name, f"product {m} x {n} x {k}", row, 2 * m * n * k, "TF/s", make, size)
            if bench.is_gpu and torch.cuda.get_device_capability(0) >= (8, 9):
                eight_bit_product(bench, m, n, k)


def eight_bit_product(bench, m, n, k):
    """PyTorch's product of 8-bit floats, without the quantisation that rows of the bench have: printed, not a row."""

    def make():
        a, w = bench.random(m, k).to(torch.float8_e4m3fn), bench.random(n, k).to(torch.float8_e4m3fn)
        one = torch.ones(1, device=bench.device)
        return lambda: torch._scaled_mm(a, w.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)

    row = {"family": "gemm", "dtype": "fp8", "m": m, "n": n, "k": k}
    name = f"8-bit product {m} x {n} x {k}"
    bench.time(f"PyTorch {torch.__version__} _scaled_mm", name, row, 2 * m * n * k, "TF/s", make, n * k + m * k + 2 * m * n)


# Attention: each library is a function (heads, kv_heads, dim, sizes) -> make, in its own layout.


def torch_backends():
    """PyTorch's own attention, as it chooses, and each implementation by name."""
    yield f"PyTorch {torch.__version__} SDPA", None
    attention = module("torch.nn.attention")
    if attention is None:
        return
    for label, name in [("cuDNN", "CUDNN_ATTENTION"), ("flash", "FLASH_ATTENTION")]:
        backend = getattr(attention.SDPBackend, name, None)
        if backend is not None:
            yield f"PyTorch {torch.__version__} SDPA {label}", lambda backend=backend: attention.sdpa_kernel(backend)


def torch_attention(bench, backend, chunks, tokens, context, heads, kv_heads, dim, causal):
    def make():
        q = bench.random(chunks, heads, tokens, dim)
        k, v = bench.random(chunks, kv_heads, context, dim), bench.random(chunks, kv_heads, context, dim)

        def call():
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=heads != kv_heads)

        def chosen():
            with backend():
                return call()

        return call if backend is None else chosen

    return make


def flash_prefill(bench, library, chunks, tokens, heads, kv_heads, dim):
    def make():
        q = bench.random(chunks, tokens, heads, dim)
        k, v = bench.random(chunks, tokens, kv_heads, dim), bench.random(chunks, tokens, kv_heads, dim)
        return lambda: library.flash_attn_func(q, k, v, causal=True)

    return make


def paged(bench, sequences, context, *inner, page=PAGE):
    """A cache of pages in random order: the cache, the table, and the pages of a sequence."""
    pages = -(-context // page)
    table = torch.randperm(sequences * pages).to(device=bench.device, dtype=torch.int32).reshape(sequences, pages)
    return bench.random(sequences * pages, page, *inner), table, pages


def flash_decode(bench, library, page, sequences, context, heads, kv_heads, dim):
    def make():
        q = bench.random(sequences, 1, heads, dim)
        k, table, _ = paged(bench, sequences, context, kv_heads, dim, page=page)
        v = bench.random(*k.shape)
        lengths = bench.integers([context] * sequences)
        return lambda: library.flash_attn_with_kvcache(
            q, k, v, cache_seqlens=lengths, **{"page_table" if page == PAGE else "block_table": table}, causal=True
        )

    return make


def vllm_decode(bench, library, sequences, context, heads, kv_heads, dim):
    def make():
        q = bench.random(sequences, heads, dim)
        k, table, _ = paged(bench, sequences, context, kv_heads, dim)
        v = bench.random(*k.shape)
        lengths, starts = bench.integers([context] * sequences), bench.integers(list(range(sequences + 1)))
        return lambda: library.flash_attn_varlen_func(
            q, k, v, max_seqlen_q=1, cu_seqlens_q=starts, max_seqlen_k=context, seqused_k=lengths, block_table=table, causal=True
        )

    return make


def flashinfer_prefill(bench, library, chunks, tokens, heads, kv_heads, dim):
    if chunks != 1:
        return None

    def make():
        q = bench.random(tokens, heads, dim)
        k, v = bench.random(tokens, kv_heads, dim), bench.random(tokens, kv_heads, dim)
        return lambda: library.single_prefill_with_kv_cache(q, k, v, causal=True)

    return make


def flashinfer_decode(bench, library, sequences, context, heads, kv_heads, dim):
    workspace = torch.empty(128 << 20, dtype=torch.uint8, device=bench.device)

    def make():
        q = bench.random(sequences, heads, dim)
        cache, table, pages = paged(bench, sequences, context, kv_heads, dim)
        values = bench.random(*cache.shape)
        starts = bench.integers([pages * number for number in range(sequences + 1)])
        last = bench.integers([(context - 1) % PAGE + 1] * sequences)
        wrapper = library.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=True)
        wrapper.plan(
            starts, table.reshape(-1), last, heads, kv_heads, dim, PAGE, q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16
        )
        return lambda: wrapper.run(q, (cache, values))

    return make


def flashinfer_latent(bench, library, sequences, context, heads):
    workspace = torch.empty(128 << 20, dtype=torch.uint8, device=bench.device)
    page = 64

    def make():
        q, turned = bench.random(sequences, heads, 512), bench.random(sequences, heads, 64)
        cache, table, pages = paged(bench, sequences, context, 512, page=page)
        keys = bench.random(*cache.shape[:2], 64)
        wrapper = library.mla.BatchMLAPagedAttentionWrapper(workspace, backend="auto")
        wrapper.plan(
            bench.integers(list(range(sequences + 1))),
            bench.integers([pages * number for number in range(sequences + 1)]),
            table.reshape(-1),
            bench.integers([context] * sequences),
            heads,
            512,
            64,
            page,
            False,
            192**-0.5,
            torch.bfloat16,
            torch.bfloat16,
        )
        return lambda: wrapper.run(q, turned, cache, keys)

    return make


def prefills(bench, heads, kv_heads, dim, sizes):
    flash2, flash3, flashinfer = module("flash_attn"), module("flash_attn_interface"), module("flashinfer")
    for chunks, tokens in sizes:
        pairs = chunks * tokens * (tokens + 1) / 2
        row = {"family": "attention_prefill", "dtype": "bfloat16", "cache": "bfloat16", "tokens": chunks * tokens, "pairs": pairs}
        row |= {"chunks": chunks, "heads": heads, "kv_heads": kv_heads, "head_dim": dim, "window": 0}
        name = f"causal {chunks} x {tokens}, {heads}/{kv_heads} heads of {dim}"
        size = 2 * chunks * tokens * dim * (2 * heads + 2 * kv_heads)
        makes = [
            (label, torch_attention(bench, backend, chunks, tokens, tokens, heads, kv_heads, dim, True))
            for label, backend in torch_backends()
        ]
        if flash2:
            makes.append((f"flash_attn {version(flash2)}", flash_prefill(bench, flash2, chunks, tokens, heads, kv_heads, dim)))
        if flash3:
            makes.append(("FlashAttention-3", flash_prefill(bench, flash3, chunks, tokens, heads, kv_heads, dim)))
        if flashinfer:
            makes.append((f"flashinfer {version(flashinfer)}", flashinfer_prefill(bench, flashinfer, chunks, tokens, heads, kv_heads, dim)))
        for label, make in makes:
            if make:
                bench.time(label, name, row, 4 * pairs * heads * dim, "TF/s", make, size)


def decodes(bench, heads, kv_heads, dim, sizes):
    flash2, flash3, flashinfer = module("flash_attn"), module("flash_attn_interface"), module("flashinfer")
    vllm = module("vllm.vllm_flash_attn")
    for sequences, context in sizes:
        row = {"family": "attention_decode", "cache": "bfloat16", "sequences": sequences, "context": sequences * context}
        row |= {"heads": heads, "kv_heads": kv_heads, "head_dim": dim, "window": 0}
        name = f"decode {sequences} x {context}, {heads}/{kv_heads} heads of {dim}"
        size = 4 * sequences * context * kv_heads * dim
        shape = (sequences, context, heads, kv_heads, dim)
        makes = [
            (label, torch_attention(bench, backend, sequences, 1, context, heads, kv_heads, dim, False))
            for label, backend in torch_backends()
        ]
        if flash2:
            makes.append((f"flash_attn {version(flash2)}", flash_decode(bench, flash2, 256, *shape)))
        if flash3:
            makes.append(("FlashAttention-3", flash_decode(bench, flash3, PAGE, *shape)))
        if flashinfer:
            makes.append((f"flashinfer {version(flashinfer)}", flashinfer_decode(bench, flashinfer, *shape)))
        if vllm:
            makes.append((f"vLLM {version(module('vllm'))} flash_attn", vllm_decode(bench, vllm, *shape)))
        for label, make in makes:
            bench.time(label, name, row, size, "TB/s", make, size)


def latent(bench, sizes):
    flashinfer = module("flashinfer")
    if not flashinfer or not module("flashinfer.mla"):
        return
    for heads in [16, 128]:
        for sequences, context in sizes:
            row = {"family": "mla_decode", "cache": "bfloat16", "sequences": sequences, "context": sequences * context, "heads": heads}
            size = 2 * 576 * sequences * context
            make = flashinfer_latent(bench, flashinfer, sequences, context, heads)
            name = f"latent {sequences} x {context}, {heads} heads"
            bench.time(f"flashinfer {version(flashinfer)}", name, row, size, "TB/s", make, size)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurements", nargs="?", help="rows of a bench on the same machine")
    parser.add_argument("--out", help="file for the rows of the libraries")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU; --device cpu shows whether the way works")
    bench = Bench(arguments.device, rows_of(arguments.measurements) if arguments.measurements else {}, arguments.out)
    print(f"{bench.gpu}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"{'call':<48} {'library':<34} {'us':>10} {'rate':>13} {'ours us':>9} {'/ ours':>7}")
    if bench.is_gpu:
        weights = [(4096, 4096), (6144, 4096), (28672, 4096), (4096, 14336), (8192, 8192)]
        prompts = [(1, 512), (1, 1024), (1, 2048), (1, 4096), (1, 8192), (1, 16384), (4, 1024), (16, 256)]
        caches = [(1, 8192), (16, 1024), (64, 1024), (64, 8192), (128, 4096), (256, 2048)]
        all_heads, rows = [(32, 8, 128), (64, 8, 128)], [1, 16, 64, 256, 1024, 4096, 8192]
    else:
        weights, prompts, caches, all_heads, rows = [(64, 32)], [(1, 16), (2, 8)], [(2, 32)], [(4, 2, 64)], [1, 4]
    for heads, kv_heads, dim in all_heads:
        prefills(bench, heads, kv_heads, dim, prompts)
        decodes(bench, heads, kv_heads, dim, caches)
    latent(bench, caches)
    products(bench, rows, weights)
    for (library, family, words), names in bench.left_out.items():
        print(f"left out: {library}, {len(names)} calls of {family}: {words}")


if __name__ == "__main__":
    main()
