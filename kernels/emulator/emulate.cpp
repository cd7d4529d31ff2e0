// The scheduler of the emulator: fibers, barriers, launches, memory with guard pages.
#include "common.cuh"

namespace emulate {
u8* shared_memory;
Fiber* current;
dim3 block_index, block_size, grid_size;
u64 progress;
bool early_copies;
std::vector<Group> warps, warpgroups;
Barrier barriers[16];

static Entry* entries;
static jmp_buf scheduler, failure;
static ucontext_t launcher;
static const char* message;
static Invoke invoke;
static void** arguments;
static const size_t STACK = 256 * 1024;

Entry::Entry(const char* name, Invoke invoke) : name(name), invoke(invoke), next(entries) { entries = this; }

__attribute__((noinline)) void yield() {
    if (!_setjmp(current->jump)) _longjmp(scheduler, 1);
}
void fail(const char* text) {
    message = text;
    _longjmp(scheduler, 2);
}
void wait_at(Barrier& barrier, u32 expected) {
    u64 generation = barrier.generation;
    if (++barrier.arrived == expected) {
        barrier.arrived = 0, barrier.generation++, progress++;
    } else {
        while (barrier.generation == generation) yield();
    }
}
void copy_now(const Copy& copy) {
    if (copy.to % 16 || uintptr_t(copy.from) % 16) fail("cp.async: an address is no multiple of 16");
    if (copy.from) memcpy(shared_memory + copy.to, copy.from, copy.bytes);
    else memset(shared_memory + copy.to, 0, copy.bytes);
}

static void thread_main() {
    invoke(arguments);
    current->done = true, progress++;
    _longjmp(scheduler, 1);
}

static __attribute__((noinline)) int resume(Fiber* fiber) {
    current = fiber;
    int back = _setjmp(scheduler);
    if (back == 0) {
        if (fiber->started) _longjmp(fiber->jump, 1);
        fiber->started = true;
        setcontext(&fiber->context);
    }
    return back;
}

static bool run_block(std::vector<Fiber>& fibers, char* stacks, u32 shared, bool falling) {
    u32 count = u32(fibers.size());
    memset(shared_memory, 0xff, shared);
    warps.assign((count + 31) / 32, Group{}), warpgroups.assign((count + 127) / 128, Group{});
    for (auto& barrier : barriers) barrier = Barrier{};
    for (u32 i = 0; i < count; i++) {
        Fiber& fiber = fibers[i];
        fiber.started = fiber.done = false;
        fiber.number = i;
        fiber.index = {i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y};
        fiber.open.clear(), fiber.groups.clear();
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stacks + size_t(i) * STACK;
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, thread_main, 0);
    }
    for (u32 alive = count; alive > 0;) {
        u64 before = progress;
        for (u32 i = 0; i < count; i++) {
            Fiber& fiber = fibers[falling ? count - 1 - i : i];
            if (fiber.done) continue;
            if (resume(&fiber) == 2) return false;
            if (fiber.done) alive--;
        }
        if (alive > 0 && progress == before) {
            message = "deadlock: every thread waits at a barrier that others never reach";
            return false;
        }
    }
    return true;
}

// A mapping that ends at an unmapped page; what lies before it is not guarded below the page.
static void* guarded(size_t bytes, size_t alignment) {
    size_t page = 4096, payload = (bytes + alignment - 1) / alignment * alignment;
    size_t whole = (payload + page - 1) / page * page;
    u8* base = static_cast<u8*>(mmap(nullptr, whole + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (base == MAP_FAILED || mprotect(base + page, whole, PROT_READ | PROT_WRITE)) return nullptr;
    return base + page + whole - payload;
}
static void release(void* pointer, size_t bytes, size_t alignment) {
    size_t page = 4096, payload = (bytes + alignment - 1) / alignment * alignment;
    size_t whole = (payload + page - 1) / page * page;
    munmap(static_cast<u8*>(pointer) + payload - whole - page, whole + 2 * page);
}
}  // namespace emulate

// Device memory: 16-byte aligned, its end guarded.
extern "C" void* emulate_allocate(size_t bytes) { return emulate::guarded(bytes ? bytes : 16, 16); }
extern "C" void emulate_free(void* pointer, size_t bytes) { emulate::release(pointer, bytes ? bytes : 16, 16); }

// Runs a kernel; null on success, else what went wrong.
extern "C" const char* emulate_launch(const char* name, const u32* grid, const u32* block, u32 shared, void** arguments,
                                      int falling, int early) {
    using namespace emulate;
    Entry* entry = entries;
    while (entry && strcmp(entry->name, name)) entry = entry->next;
    if (!entry) return "no kernel of that name";
    u32 threads = block[0] * block[1] * block[2];
    if (threads == 0 || threads > 1024 || threads % 32) return "the block size is no multiple of 32 up to 1024";
    if (shared > 227 * 1024) return "more than 227 KiB of shared memory";
    std::vector<Fiber> fibers(threads);
    static char* stacks = static_cast<char*>(
        mmap(nullptr, 1024 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks == MAP_FAILED) return "out of memory";
    shared_memory = static_cast<u8*>(guarded(shared ? shared : 1024, 1024));
    if (!shared_memory) return "out of memory";
    invoke = entry->invoke, emulate::arguments = arguments, early_copies = early, message = nullptr;
    grid_size = {grid[0], grid[1], grid[2]}, block_size = {block[0], block[1], block[2]};
    bool good = true;
    for (u32 z = 0; z < grid[2] && good; z++)
        for (u32 y = 0; y < grid[1] && good; y++)
            for (u32 x = 0; x < grid[0] && good; x++) {
                block_index = {x, y, z};
                good = run_block(fibers, stacks, shared, falling);
            }
    release(shared_memory, shared ? shared : 1024, 1024);
    return message;
}
