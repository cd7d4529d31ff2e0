"""PyTorch's own attention and matrix products on shapes of `servesim calibrate bench`, on the same GPU.

    python3 kernels/compare_torch.py                      prints PyTorch's times
    python3 kernels/compare_torch.py measurements.csv     and the ratio to the rows that a bench wrote

Needs PyTorch with CUDA. Times as the bench does: CUDA graphs, rotating inputs, random data, the median.
"""

import csv
import statistics
import sys

import torch
import torch.nn.functional as F

L2_BYTES = 2 * torch.cuda.get_device_properties(0).L2_cache_size


def seconds(make, bytes_per_call):
    """Median time of one call; `make` gives a call on inputs of its own."""
    sets = max(1, min(16, -(-L2_BYTES // max(1, int(bytes_per_call)))))
    calls = [make() for _ in range(sets)]
    for call in calls:
        call()
    torch.cuda.synchronize()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for call in calls:
        call()
    end.record()
    torch.cuda.synchronize()
    once = begin.elapsed_time(end) / 1e3 / sets
    count = max(sets, min(64, int(2e-3 / once) + 1) // sets * sets)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(count):
            calls[number % sets]()
    graph.replay()
    samples = []
    for _ in range(11):
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        samples.append(begin.elapsed_time(end) / 1e3 / count)
    return statistics.median(samples)


def random(*shape):
    return torch.rand(*shape, device="cuda", dtype=torch.bfloat16) * 2 - 1


def product(m, n, k):
    def make():
        a, w = random(m, k), random(n, k)
        return lambda: F.linear(a, w)

    return seconds(make, 2 * (n * k + m * k + m * n)), 2 * m * n * k


def prefill(chunks, tokens, heads, kv_heads, dim):
    def make():
        q = random(chunks, heads, tokens, dim)
        k, v = random(chunks, kv_heads, tokens, dim), random(chunks, kv_heads, tokens, dim)
        return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv_heads)

    pairs = chunks * tokens * (tokens + 1) / 2
    return seconds(make, 2 * chunks * tokens * dim * (2 * heads + 2 * kv_heads)), 4 * pairs * heads * dim


def decode(sequences, context, heads, kv_heads, dim):
    def make():
        q = random(sequences, heads, 1, dim)
        k, v = random(sequences, kv_heads, context, dim), random(sequences, kv_heads, context, dim)
        return lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=heads != kv_heads)

    size = 4 * sequences * context * kv_heads * dim
    return seconds(make, size), size


def rows_of(path):
    """Times of the bench's rows by what identifies them."""
    times = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            family = row["family"]
            if family == "gemm" and row["dtype"] == "bfloat16":
                key = (family, float(row["m"]), int(row["n"]), int(row["k"]))
            elif family == "attention_prefill":
                key = (family, float(row["chunks"]), float(row["tokens"]), float(row["pairs"]), int(row["heads"]), int(row["kv_heads"]), int(row["head_dim"]))
            elif family == "attention_decode" and row["cache"] == "bfloat16":
                key = (family, float(row["sequences"]), float(row["context"]), int(row["heads"]), int(row["kv_heads"]), int(row["head_dim"]))
            else:
                continue
            times[key] = float(row["seconds"])
    return times


def main():
    times = rows_of(sys.argv[1]) if len(sys.argv) > 1 else {}
    print(f"{torch.cuda.get_device_name(0)}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"{'call':<52} {'PyTorch us':>11} {'rate':>12} {'ours us':>9} {'PyTorch / ours':>15}")

    def line(name, key, time, work, unit):
        ours = times.get(key)
        tail = f"{ours * 1e6:9.1f} {time / ours:15.2f}" if ours else f"{'-':>9} {'-':>15}"
        print(f"{name:<52} {time * 1e6:11.1f} {work / time / 1e12:7.2f} {unit} {tail}", flush=True)

    for n, k in [(4096, 4096), (6144, 4096), (28672, 4096), (4096, 14336), (8192, 8192)]:
        for m in [1, 16, 64, 256, 1024, 4096, 8192]:
            time, work = product(m, n, k)
            line(f"matmul {m} x {n} x {k}", ("gemm", float(m), n, k), time, work, "TF/s")
    for heads, kv_heads, dim in [(32, 8, 128), (64, 8, 128)]:
        for chunks, tokens in [(1, 512), (1, 1024), (1, 2048), (1, 4096), (1, 8192), (1, 16384), (4, 1024), (16, 256)]:
            time, work = prefill(chunks, tokens, heads, kv_heads, dim)
            pairs = chunks * tokens * (tokens + 1) / 2
            key = ("attention_prefill", float(chunks), float(chunks * tokens), pairs, heads, kv_heads, dim)
            line(f"causal attention {chunks} x {tokens}, {heads}/{kv_heads} heads of {dim}", key, time, work, "TF/s")
        for sequences, context in [(1, 8192), (16, 1024), (64, 1024), (64, 8192), (128, 4096), (256, 2048)]:
            time, work = decode(sequences, context, heads, kv_heads, dim)
            key = ("attention_decode", float(sequences), float(sequences * context), heads, kv_heads, dim)
            line(f"decode attention {sequences} x {context}, {heads}/{kv_heads} heads of {dim}", key, time, work, "TB/s")


if __name__ == "__main__":
    main()
