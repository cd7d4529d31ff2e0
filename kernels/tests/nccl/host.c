/* The functions of NCCL that the crate calls, over ranks in host memory: for tests of the calls without GPUs. What a group
 * issues happens when it ends, in the order of the ranks. With FORGETFUL the last rank's result is never written. With DRIVER
 * every call has a stream of ../driver/host.c on its own GPU, and large vectors are not computed. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct comm { int rank, ranks; };
enum kind { REDUCE, SCATTER, GATHER, SEND, RECEIVE };
struct call { enum kind kind; const uint16_t *from; uint16_t *to; size_t count; int peer; struct comm *comm; int done; };

static struct call calls[4096];
static int call_count, in_group;

static float wide(uint16_t bits) {
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, 4);
    return value;
}
static uint16_t narrow(float value) {
    uint32_t word;
    memcpy(&word, &value, 4);
    return (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

int ncclGetVersion(int *version) { return *version = 22703, 0; }
const char *ncclGetErrorString(int code) { return code == 4 ? "invalid argument" : code == 5 ? "invalid usage" : "unknown"; }

int ncclCommInitAll(struct comm **comms, int ranks, const int *devices) {
    for (int rank = 0; rank < ranks; rank++) {
        if (devices[rank] != rank) return 4;
        comms[rank] = malloc(sizeof **comms);
        *comms[rank] = (struct comm){rank, ranks};
    }
    return 0;
}
int ncclCommDestroy(struct comm *comm) { return free(comm), 0; }
int ncclGroupStart(void) { return in_group++, 0; }

#ifdef DRIVER
int test_driver_work(void *stream), test_driver_device(void *stream);
static int misplaced(void *stream, const struct comm *comm) {
    return !stream || test_driver_device(stream) != comm->rank || test_driver_work(stream);
}
static int is_large(size_t count) { return count > 1 << 20; }
#else
static int misplaced(void *stream, const struct comm *comm) { return stream != 0 || !comm; }
static int is_large(size_t count) { return count > (size_t)1 << 40; }
#endif

static int issue(struct call call, int type, void *stream) {
    /* Outside a group one process would wait for itself. */
    if (!in_group) return 5;
    if (misplaced(stream, call.comm)) return 4;
    if (type != 9 || call_count == 4096) return 4;
    return calls[call_count++] = call, 0;
}
int ncclAllReduce(const void *from, void *to, size_t count, int type, int op, struct comm *comm, void *stream) {
    return op ? 4 : issue((struct call){REDUCE, from, to, count, 0, comm, 0}, type, stream);
}
int ncclReduceScatter(const void *from, void *to, size_t count, int type, int op, struct comm *comm, void *stream) {
    return op ? 4 : issue((struct call){SCATTER, from, to, count, 0, comm, 0}, type, stream);
}
int ncclAllGather(const void *from, void *to, size_t count, int type, struct comm *comm, void *stream) {
    return issue((struct call){GATHER, from, to, count, 0, comm, 0}, type, stream);
}
int ncclSend(const void *from, size_t count, int type, int peer, struct comm *comm, void *stream) {
    return peer >= comm->ranks ? 4 : issue((struct call){SEND, from, 0, count, peer, comm, 0}, type, stream);
}
int ncclRecv(void *to, size_t count, int type, int peer, struct comm *comm, void *stream) {
    return peer >= comm->ranks ? 4 : issue((struct call){RECEIVE, 0, to, count, peer, comm, 0}, type, stream);
}

static int forgets(const struct comm *comm) {
#ifdef FORGETFUL
    return comm->rank == comm->ranks - 1;
#else
    return comm->rank < 0;
#endif
}

static int run(struct call *call) {
    if (call->kind == SEND || is_large(call->count)) return 0;
    if (call->kind == RECEIVE) {
        for (int i = 0; i < call_count; i++) {
            struct call *other = calls + i;
            if (other->kind != SEND || other->done || other->comm->rank != call->peer || other->peer != call->comm->rank) continue;
            if (other->count != call->count) return 4;
            other->done = 1;
            if (!forgets(call->comm)) memcpy(call->to, other->from, 2 * call->count);
            return 0;
        }
        return 5;
    }
    struct call *ranks[8] = {0};
    for (int i = 0; i < call_count; i++)
        if (calls[i].kind == call->kind) ranks[calls[i].comm->rank] = calls + i;
    for (int rank = 0; rank < call->comm->ranks; rank++)
        if (!ranks[rank] || ranks[rank]->count != call->count) return 5;
    if (forgets(call->comm)) return 0;
    size_t first = call->kind == SCATTER ? call->comm->rank * call->count : 0;
    for (int rank = 0; call->kind == GATHER && rank < call->comm->ranks; rank++)
        memcpy(call->to + rank * call->count, ranks[rank]->from, 2 * call->count);
    for (size_t at = 0; call->kind != GATHER && at < call->count; at++) {
        float sum = 0;
        for (int rank = 0; rank < call->comm->ranks; rank++) sum += wide(ranks[rank]->from[first + at]);
        call->to[at] = narrow(sum);
    }
    return 0;
}

int ncclGroupEnd(void) {
    if (--in_group) return 0;
    int code = 0;
    for (int i = 0; i < call_count && !code; i++) code = run(calls + i);
    return call_count = 0, code;
}
