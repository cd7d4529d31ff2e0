// The scheduler of the emulator: fibers, barriers, launches, memory with guard pages, what breaks a kernel.
#include "common.cuh"
#include <csignal>

// Static shared memory of the kernels of this file (emulate.h); none where no kernel has any.
extern "C" u8 __start_block_shared[] __attribute__((weak));
extern "C" u8 __stop_block_shared[] __attribute__((weak));

namespace emulate {
u8 *shared_memory, *async_memory;
u32 shared_bytes;
Fiber* current;
dim3 block_index, block_size, grid_size;
u64 progress;
bool early_copies;
std::vector<Group> warps;
std::vector<std::vector<Sums>> sums_under_way;
std::vector<Box> boxes;
Barrier barriers[16];

static Entry* entries;
static jmp_buf scheduler;
static const char* message;
static Invoke invoke;
static void** arguments;
static thread_local bool is_running;
static const size_t STACK = 256 * 1024;

Entry::Entry(const char* name, Invoke invoke) : name(name), invoke(invoke), next(entries) { entries = this; }

__attribute__((noinline)) void yield() {
    if (!_setjmp(current->jump)) _longjmp(scheduler, 1);
}
void fail(const char* text) {
    message = text;
    _longjmp(scheduler, 2);
}
void wait_at(Barrier& barrier, u32 expected, int line) {
    u64 generation = barrier.generation;
    if (barrier.arrived == 0) barrier.line = line;
    if (barrier.line != line) fail("threads wait at one barrier from different lines");
    if (++barrier.arrived == expected) {
        barrier.arrived = 0, barrier.generation++, progress++;
    } else {
        while (barrier.generation == generation) yield();
    }
}
void copy_now(const Copy& copy) {
    if (copy.to % 16 || uintptr_t(copy.from) % 16) fail("cp.async: an address is no multiple of 16");
    if (copy.to + copy.bytes > shared_bytes) fail("cp.async: past the end of shared memory");
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

static void begin_block(std::vector<Fiber>& fibers, char* stacks) {
    u32 count = u32(fibers.size());
    memset(shared_memory, 0xff, shared_bytes), memset(async_memory, 0xff, shared_bytes);
    if (__start_block_shared) memset(__start_block_shared, 0xff, size_t(__stop_block_shared - __start_block_shared));
    warps.assign(count / 32, Group{}), sums_under_way.assign(count, {}), boxes.clear();
    for (auto& warp : warps) warp.products.assign(1, {});
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
}

// Lets each thread of fibers `first .. first + count` run until it waits; false when one failed.
static bool run_some(std::vector<Fiber>& fibers, u32 first, u32 count, bool falling, u32& alive) {
    for (u32 i = 0; i < count; i++) {
        Fiber& fiber = fibers[first + (falling ? count - 1 - i : i)];
        if (fiber.done) continue;
        if (resume(&fiber) == 2) return false;
        if (fiber.done) alive--;
    }
    return true;
}

// `apart`: the first warp (in falling order the last) that can go on does so until it waits for others.
static bool run_block(std::vector<Fiber>& fibers, char* stacks, bool falling, bool apart) {
    u32 count = u32(fibers.size()), unit = apart ? 32 : count, units = count / unit;
    begin_block(fibers, stacks);
    for (u32 alive = count; alive > 0;) {
        u64 before = progress;
        for (u32 i = 0; i < units && progress == before; i++) {
            u64 own;
            do {
                own = progress;
                if (!run_some(fibers, (falling ? units - 1 - i : i) * unit, unit, falling, alive)) return false;
            } while (apart && progress != own);
        }
        if (alive > 0 && progress == before) {
            message = "deadlock: every thread waits at a barrier that others never reach";
            return false;
        }
    }
    if (!boxes.empty()) message = "a bulk copy that nothing waited for";
    for (auto& warp : warps)
        if (warp.products.size() > 1 || !warp.products[0].empty()) message = "a product that nothing waited for";
    return !message;
}

// A mapping between unmapped pages, full of 0xff, that ends (`at_start`: begins) at one.
static const size_t PAGE = 4096;
static size_t payload_of(size_t bytes) { return (bytes + 15) / 16 * 16; }
static size_t whole_of(size_t bytes) { return (payload_of(bytes) + PAGE - 1) / PAGE * PAGE; }
static void* guarded(size_t bytes, bool at_start) {
    size_t whole = whole_of(bytes);
    u8* base = static_cast<u8*>(mmap(nullptr, whole + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (base == MAP_FAILED || mprotect(base + PAGE, whole, PROT_READ | PROT_WRITE)) return nullptr;
    memset(base + PAGE, 0xff, whole);
    return base + PAGE + (at_start ? 0 : whole - payload_of(bytes));
}
static void release(void* pointer, size_t bytes, bool at_start) {
    if (!pointer) return;
    size_t whole = whole_of(bytes);
    munmap(static_cast<u8*>(pointer) - (at_start ? 0 : whole - payload_of(bytes)) - PAGE, whole + 2 * PAGE);
}

// What the CPU refuses while a kernel runs is the kernel's failure; elsewhere it is handled as before.
static const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE};
static struct sigaction before_us[5];
static void on_signal(int number, siginfo_t*, void*) {
    if (is_running) {
        bool is_memory = number == SIGSEGV || number == SIGBUS;
        fail(is_memory ? "memory that is not its own is read or written"
                       : "a misaligned access, an index past an array, or a sum or shift that overflows");
    }
    for (int i = 0; i < 5; i++)
        if (SIGNALS[i] == number) sigaction(number, &before_us[i], nullptr);
}
static void watch_signals(bool on) {
    struct sigaction ours {};
    ours.sa_sigaction = on_signal, ours.sa_flags = SA_SIGINFO | SA_NODEFER;
    for (int i = 0; i < 5; i++) {
        if (on) sigaction(SIGNALS[i], &ours, &before_us[i]);
        else sigaction(SIGNALS[i], &before_us[i], nullptr);
    }
    is_running = on;
}
}  // namespace emulate

// Device memory: 16-byte aligned, guarded at its end, or at its start.
extern "C" void* emulate_allocate(size_t bytes, int at_start) { return emulate::guarded(bytes ? bytes : 16, at_start); }
extern "C" void emulate_free(void* pointer, size_t bytes, int at_start) {
    emulate::release(pointer, bytes ? bytes : 16, at_start);
}

// Runs a kernel; null on success, else what went wrong. `order`: 1 the last thread first, 2 copies and products at once,
// 4 warps apart.
extern "C" const char* emulate_launch(const char* name, const u32* grid, const u32* block, u32 shared, void** arguments,
                                      int order) {
    using namespace emulate;
    Entry* entry = entries;
    while (entry && strcmp(entry->name, name)) entry = entry->next;
    if (!entry) return "no kernel of that name";
    u32 threads = block[0] * block[1] * block[2];
    if (threads == 0 || threads > 1024 || threads % 32) return "the block size is no multiple of 32 up to 1024";
    if (shared > 227 * 1024) return "more than 227 KiB of shared memory";
    bool falling = order & 1, apart = order & 4;
    std::vector<Fiber> fibers(threads);
    static char* stacks = static_cast<char*>(
        mmap(nullptr, 1024 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    shared_bytes = (shared + 15) / 16 * 16;
    shared_memory = static_cast<u8*>(guarded(shared_bytes, falling));
    async_memory = static_cast<u8*>(malloc(shared_bytes + 1));
    if (stacks == MAP_FAILED || !shared_memory || !async_memory) return "out of memory";
    invoke = entry->invoke, emulate::arguments = arguments, early_copies = order & 2, message = nullptr;
    grid_size = {grid[0], grid[1], grid[2]}, block_size = {block[0], block[1], block[2]};
    bool good = true;
    watch_signals(true);
    for (u32 z = 0; z < grid[2] && good; z++)
        for (u32 y = 0; y < grid[1] && good; y++)
            for (u32 x = 0; x < grid[0] && good; x++) {
                block_index = {x, y, z};
                good = run_block(fibers, stacks, falling, apart);
            }
    watch_signals(false);
    release(shared_memory, shared_bytes, falling);
    free(async_memory);
    return message;
}
