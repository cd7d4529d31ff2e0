/* The driver, cuBLASLt and (with ../nccl/host.c) NCCL as one library that keeps memory and computes nothing: for tests of
 * everything around the kernels without a GPU. It refuses what a GPU refuses: too much memory or shared memory, impossible
 * grids, misaligned tensors, memory calls while a graph is recorded, streams of another GPU. A launch takes 5 us of its own
 * clock. GPUS and MEMORY_GIB say how many GPUs there are and what each holds. BREAKS and HANGS name a kernel (or the
 * beginnings of several) after which the GPU takes no more work, or works without end. At exit it tells what was not
 * freed. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, RECORDING = 900 };
struct context { int device, retained; uint64_t used; double clock; };
struct stream { struct context *context; int recording, state; uint64_t work; };
struct event { struct context *context; double at; };
struct graph { struct context *context; uint64_t work; int state; };
struct function { char name[64]; int shared; };
struct block { char *at; size_t bytes; struct context *context; };

static struct context contexts[8], *current;
static struct block blocks[1 << 16];
static int block_count, recording;
/* What the GPU has come to: OK, ILLEGAL_ADDRESS or NOT_READY for good. */
static int broken;

static int refuse(int code, const char *why) { return fprintf(stderr, "driver: %s\n", why), code; }
static uint64_t setting(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, 0, 10) : otherwise;
}
static uint64_t memory(void) { return setting("MEMORY_GIB", 79) << 30; }
static void tell(void) {
    if (broken) return;
    for (int i = 0; i < 8; i++)
        if (contexts[i].used) fprintf(stderr, "driver: %llu bytes of GPU %d were not freed\n", (unsigned long long)contexts[i].used, i);
}

int cuInit(unsigned flags) { return flags ? INVALID : (atexit(tell), OK); }
int cuDriverGetVersion(int *version) { return *version = 13000, OK; }
int cuGetErrorName(int code, const char **text) { return *text = "ERROR", (void)code, OK; }
int cuGetErrorString(int code, const char **text) {
    *text = code == NO_MEMORY ? "out of memory" : code == ILLEGAL_ADDRESS ? "an illegal memory access was encountered" : code == RECORDING ? "operation not permitted when stream is capturing" : "invalid argument";
    return OK;
}
int cuDeviceGetCount(int *count) { return *count = (int)setting("GPUS", 1), OK; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal < (int)setting("GPUS", 1) ? OK : INVALID; }
int cuDeviceGetName(char *name, int bytes, int device) { return (void)device, snprintf(name, (size_t)bytes, "NVIDIA H100 of a test"), OK; }
int cuDeviceGetPCIBusId(char *text, int bytes, int device) { return snprintf(text, (size_t)bytes, "0000:%02x:00.0", device), OK; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    (void)device;
    switch (which) {
    case 16: *value = 132; break;
    case 38: *value = 50 << 20; break;
    case 75: *value = 9; break;
    case 76: *value = 0; break;
    case 97: *value = 227 << 10; break;
    default: return refuse(INVALID, "an attribute that it does not know");
    }
    return OK;
}
int cuDevicePrimaryCtxRetain(struct context **context, int device) {
    *context = contexts + device;
    return contexts[device].device = device, contexts[device].retained++, OK;
}
int cuDevicePrimaryCtxRelease_v2(int device) { return contexts[device].retained-- > 0 ? OK : refuse(INVALID, "a context released twice"); }
int cuCtxSetCurrent(struct context *context) { return current = context, OK; }
int cuCtxGetCurrent(struct context **context) { return *context = current, OK; }
static int idle(const char *what) {
    if (!current || !current->retained) return refuse(INVALID, "no context is current");
    if (broken == NOT_READY) return refuse(INVALID, "a call that would wait for ever");
    if (broken) return broken;
    return recording ? refuse(RECORDING, what) : OK;
}
int cuCtxSynchronize(void) { return idle("a wait for the context while a graph is recorded"); }

int cuMemGetInfo_v2(size_t *free, size_t *total) { return *total = memory(), *free = memory() - current->used, OK; }
int cuMemAlloc_v2(void **address, size_t bytes) {
    int code = idle("memory asked for while a graph is recorded");
    if (code) return code;
    if (!bytes || block_count == 1 << 16) return refuse(INVALID, "no bytes, or too many blocks");
    if (current->used + bytes > memory()) return NO_MEMORY;
    char *at = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return refuse(NO_MEMORY, "the host has no more addresses");
    blocks[block_count++] = (struct block){at, bytes, current};
    return current->used += bytes, *address = at, OK;
}
int cuMemFree_v2(char *address) {
    int code = idle("memory freed while a graph is recorded");
    for (int i = block_count - 1; !code && i >= 0; i--)
        if (blocks[i].at == address) {
            if (blocks[i].context != current) return refuse(INVALID, "memory of another GPU freed");
            current->used -= blocks[i].bytes;
            munmap(address, blocks[i].bytes);
            return blocks[i] = blocks[--block_count], OK;
        }
    return code ? code : refuse(INVALID, "memory freed that is not there");
}
static int inside(const char *address, size_t bytes) {
    for (int i = block_count - 1; i >= 0; i--)
        if (address >= blocks[i].at && address + bytes <= blocks[i].at + blocks[i].bytes)
            return blocks[i].context == current ? OK : refuse(INVALID, "memory of another GPU used");
    return refuse(INVALID, "an address outside of every block");
}
int cuMemcpyHtoD_v2(char *to, const void *from, size_t bytes) {
    int code = idle("a copy while a graph is recorded");
    if (code || (code = inside(to, bytes))) return code;
    /* Random data for 512 MiB buffers need not take the host's memory. */
    if (bytes < 8 << 20) memcpy(to, from, bytes);
    return OK;
}
int cuMemcpyDtoH_v2(void *to, const char *from, size_t bytes) {
    int code = idle("a copy while a graph is recorded");
    if (code || (code = inside(from, bytes))) return code;
    return memcpy(to, from, bytes), OK;
}

int cuStreamCreate(struct stream **stream, unsigned flags) {
    (void)flags, *stream = calloc(1, sizeof **stream);
    return (*stream)->context = current, OK;
}
int cuStreamDestroy_v2(struct stream *stream) { return free(stream), OK; }
int cuStreamSynchronize(struct stream *stream) {
    return stream->context != current ? refuse(INVALID, "a stream of another GPU") : idle("a wait while a graph is recorded");
}
int cuStreamQuery(struct stream *stream) {
    return broken ? broken : stream->context != current ? refuse(INVALID, "a stream of another GPU") : OK;
}
/* Work of `launches` kernels. */
static int work(struct stream *stream, uint64_t launches) {
    if (broken == ILLEGAL_ADDRESS) return broken;
    if (!stream || stream->context != current) return refuse(INVALID, "a stream of another GPU");
    if (stream->recording) stream->work += launches;
    else current->clock += 5e-3 * (double)launches;
    return OK;
}
int cuMemsetD8Async(char *address, unsigned char byte, size_t bytes, struct stream *stream) {
    int code = inside(address, bytes);
    if (code) return code;
    if (bytes <= 1 << 16 && !stream->recording) memset(address, byte, bytes);
    return work(stream, 1);
}
int cuStreamBeginCapture_v2(struct stream *stream, int mode) {
    (void)mode;
    if (stream->recording || stream->context != current) return refuse(INVALID, "a recording that cannot begin");
    return stream->recording = 1, stream->work = 0, recording++, OK;
}
int cuStreamEndCapture(struct stream *stream, struct graph **graph) {
    if (!stream->recording) return refuse(INVALID, "a recording that never began");
    *graph = malloc(sizeof **graph), **graph = (struct graph){stream->context, stream->work, stream->state};
    return stream->state = 0, stream->recording = 0, recording--, OK;
}
int cuGraphInstantiateWithFlags(struct graph **ready, struct graph *graph, unsigned long long flags) {
    (void)flags, *ready = malloc(sizeof **ready), **ready = *graph;
    return graph->work ? OK : refuse(INVALID, "a graph of nothing");
}
int cuGraphDestroy(struct graph *graph) { return free(graph), OK; }
int cuGraphExecDestroy(struct graph *graph) { return free(graph), OK; }
int cuGraphLaunch(struct graph *graph, struct stream *stream) {
    if (graph->state && !broken) broken = graph->state;
    return graph->context == stream->context ? work(stream, graph->work) : refuse(INVALID, "a graph of another GPU");
}
int cuEventCreate(struct event **event, unsigned flags) {
    (void)flags, *event = malloc(sizeof **event), (*event)->context = current;
    return OK;
}
int cuEventDestroy_v2(struct event *event) { return free(event), OK; }
int cuEventRecord(struct event *event, struct stream *stream) {
    if (event->context != stream->context || stream->recording) return refuse(INVALID, "an event of another GPU, or in a graph");
    return event->at = stream->context->clock, OK;
}
int cuEventSynchronize(struct event *event) { return (void)event, idle("a wait while a graph is recorded"); }
int cuEventQuery(struct event *event) { return (void)event, broken; }
int cuEventElapsedTime_v2(float *milliseconds, struct event *begin, struct event *end) {
    return *milliseconds = (float)(end->at - begin->at), OK;
}
int cuEventElapsedTime(float *milliseconds, struct event *begin, struct event *end) { return cuEventElapsedTime_v2(milliseconds, begin, end); }

/* A module is its cubin: an ELF file whose section names tell the kernels. */
struct module { size_t bytes; char image[]; };
int cuModuleLoadData(struct module **module, const char *image) {
    uint64_t sections;
    uint16_t size, count;
    if (memcmp(image, "\177ELF", 4)) return refuse(INVALID, "a module that is no cubin");
    memcpy(&sections, image + 40, 8), memcpy(&size, image + 58, 2), memcpy(&count, image + 60, 2);
    size_t bytes = sections + (size_t)size * count;
    *module = malloc(sizeof **module + bytes);
    return (*module)->bytes = bytes, memcpy((*module)->image, image, bytes), OK;
}
int cuModuleUnload(struct module *module) { return free(module), OK; }
int cuModuleGetFunction(struct function **function, struct module *module, const char *name) {
    char section[80];
    size_t length = (size_t)snprintf(section, sizeof section, ".text.%s", name) + 1;
    if (!memmem(module->image, module->bytes, section, length)) return refuse(NOT_FOUND, name);
    *function = calloc(1, sizeof **function), (*function)->shared = 48 << 10;
    return snprintf((*function)->name, sizeof (*function)->name, "%s", name), OK;
}
int cuFuncSetAttribute(struct function *function, int which, int value) {
    if (which == 8 && value > 227 << 10) return refuse(INVALID, "more shared memory than there is");
    if (which == 8 && value > function->shared) function->shared = value;
    return which == 8 || which == 9 ? OK : refuse(INVALID, "an attribute of a function that it does not know");
}
static int names(const char *list, const char *name) {
    const char *text = getenv(list);
    return text && !strncmp(name, text, strlen(text));
}
int cuLaunchKernel(struct function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, struct stream *stream, void **arguments, void **extra) {
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535) return refuse(INVALID, "a grid that no GPU has");
    if (!bx || bx * by * bz > 1024 || (int)shared > function->shared) return refuse(INVALID, "too many threads or too much shared memory");
    int state = names("BREAKS", function->name) ? ILLEGAL_ADDRESS : names("HANGS", function->name) ? NOT_READY : OK;
    if (state && stream->recording) stream->state = state;
    else if (state && !broken) return broken = state, OK;
    return !arguments || extra ? INVALID : work(stream, 1);
}
int cuTensorMapEncodeTiled(uint64_t *map, int type, unsigned rank, void *address, const uint64_t *sizes, const uint64_t *strides,
                           const uint32_t *box, const uint32_t *steps, int interleave, int swizzle, int promotion, int fill) {
    (void)promotion, (void)fill;
    if (type != 9 || rank != 4 || interleave || swizzle != 3) return refuse(INVALID, "a tensor of a kind that it does not know");
    if ((uintptr_t)address % 16 || (uintptr_t)map % 64 || box[0] * 2 > 128) return refuse(INVALID, "a tensor out of place");
    for (int i = 0; i < 4; i++)
        if (!sizes[i] || sizes[i] > 1ull << 32 || !box[i] || box[i] > 256 || steps[i] != 1) return refuse(INVALID, "sizes of a tensor");
    for (int i = 0; i < 3; i++)
        if (strides[i] % 16 || strides[i] >> 40) return refuse(INVALID, "strides of a tensor");
    return inside(address, strides[2] * sizes[3]);
}

/* cuBLASLt: 16-bit, 8-bit floats with one scale or one per block, 8-bit integers; A transposed, B not. */
struct layout { int type; uint64_t rows, columns; int64_t leading; };
struct product { int64_t attributes[64]; };
int cublasLtCreate(void **handle) { return *handle = malloc(1), OK; }
int cublasLtDestroy(void *handle) { return free(handle), OK; }
size_t cublasLtGetVersion(void) { return 130002; }
int cublasLtMatmulDescCreate(struct product **product, int compute, int scale) {
    (void)compute, (void)scale, *product = calloc(1, sizeof **product);
    return OK;
}
int cublasLtMatmulDescDestroy(struct product *product) { return free(product), OK; }
int cublasLtMatmulDescSetAttribute(struct product *product, int which, const void *value, size_t bytes) {
    return which < 64 && bytes <= 8 ? memcpy(product->attributes + which, value, bytes), OK : refuse(7, "an attribute of a product");
}
int cublasLtMatrixLayoutCreate(struct layout **layout, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    *layout = malloc(sizeof **layout), **layout = (struct layout){type, rows, columns, leading};
    return OK;
}
int cublasLtMatrixLayoutDestroy(struct layout *layout) { return free(layout), OK; }
int cublasLtMatmulPreferenceCreate(void **preference) { return *preference = malloc(1), OK; }
int cublasLtMatmulPreferenceDestroy(void *preference) { return free(preference), OK; }
int cublasLtMatmulPreferenceSetAttribute(void *preference, int which, const void *value, size_t bytes) {
    return (void)preference, (void)value, which == 1 && bytes == 8 ? OK : refuse(7, "an attribute of a preference");
}
int cublasLtMatmulAlgoGetHeuristic(void *handle, struct product *product, struct layout *a, struct layout *b, struct layout *c,
                                   struct layout *d, void *preference, int wanted, void *result, int *found) {
    (void)handle, (void)c, (void)preference;
    const int64_t *own = product->attributes;
    int is_small = a->type != 14, has_blocks = own[31] == 5 && own[32] == 4;
    *found = 0;
    if (wanted != 1 || own[3] != 1 || own[4] != 0 || a->rows != b->rows || d->rows != a->columns || d->columns != b->columns)
        return refuse(7, "a product whose sizes do not fit");
    if (a->rows * (is_small ? 1 : 2) % 16 || d->rows * 2 % 16) return refuse(15, "a product out of line");
    if (a->type == 28 && (!own[17] || !own[18])) return refuse(7, "8-bit floats without scales");
    if (has_blocks && (d->rows % 4 || d->columns % 4 || own[17] % 16 || own[18] % 16)) return refuse(15, "block scales out of line");
    return memset(result, 0, 96), *found = 1, OK;
}
int cublasLtMatmul(void *handle, struct product *product, const void *alpha, const char *a, struct layout *al, const char *b,
                   struct layout *bl, const void *beta, const void *c, struct layout *cl, char *d, struct layout *dl,
                   const void *algorithm, void *workspace, size_t bytes, struct stream *stream) {
    (void)handle, (void)product, (void)alpha, (void)beta, (void)algorithm;
    size_t in = al->type == 14 ? 2 : 1, out = dl->type == 14 ? 2 : 4;
    if (c != d || cl != dl || inside(a, al->rows * al->columns * in) || inside(b, bl->rows * bl->columns * in) ||
        inside(d, dl->rows * dl->columns * out) || inside(workspace, bytes))
        return refuse(7, "a product outside of its memory");
    return work(stream, 1) ? 14 : OK;
}

int test_driver_work(void *stream) { return work(stream, 1); }
int test_driver_device(void *stream) { return ((struct stream *)stream)->context->device; }
