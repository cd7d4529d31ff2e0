//! After its first steps a run allocates nothing per step: counted by an allocator of this binary's own. A request may
//! cost memory, for its row; a step may not.
#![allow(missing_docs)]

use sim::cost::{CostModel, LinearCost};
use sim::replica::{StepPath, StepRecord};
use sim::scheduler::SchedulerConfig;
use sim::simulation::{RunObserver, Simulation};
use sim::units::SimTime;
use sim::workload::{Arrival, WorkloadGenerator};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

struct Counting;

thread_local! {
    /// Of this thread alone: the harness has one of its own, which may allocate while a window is open.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every call is handed to the system's allocator as it came; only a counter is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts the allocations between two steps.
struct Window {
    steps: u64,
    from: u64,
    to: u64,
    at_start: u64,
    in_window: Option<u64>,
}

impl RunObserver for Window {
    fn step(&mut self, _step: &StepRecord<'_>) {
        self.steps += 1;
        if self.steps == self.from {
            self.at_start = ALLOCATIONS.get();
        }
        if self.steps == self.to {
            self.in_window = Some(ALLOCATIONS.get() - self.at_start);
        }
    }
}

fn config(prefix_caching: bool, async_scheduling: bool) -> SchedulerConfig {
    SchedulerConfig {
        total_blocks: 1_200,
        max_num_seqs: 64,
        max_num_batched_tokens: 512,
        max_model_len: 4_096,
        prefix_caching,
        long_prefill_cap_spares_single: false,
        async_scheduling,
        ..SchedulerConfig::VLLM
    }
}

/// Four thousand requests that are all there at the start: the table grows no more, and requests come, go and are
/// preempted all the time. By the window every table has grown to its size.
fn allocations_per_window(path: StepPath, prefix_caching: bool, async_scheduling: bool) -> u64 {
    let arrivals = (0..4_000).map(|i| Arrival {
        at: SimTime(0),
        prompt_tokens: 50 + i * 37 % 400,
        output_tokens: 100 + i * 71 % 300,
        ..Arrival::default()
    });
    let workload = WorkloadGenerator::from_arrivals(arrivals.collect());
    let cost: Arc<dyn CostModel> = Arc::new(LinearCost {
        base_ns: 5_000_000,
        per_token_ns: 0,
        per_context_token_ns: 0,
        ..LinearCost::NONE
    });
    let mut window = Window { steps: 0, from: 8_000, to: 12_000, at_start: 0, in_window: None };
    let config = config(prefix_caching, async_scheduling);
    let run = Simulation::with_path(1, config, &cost, workload, path).run(&mut window);
    assert!(run.replicas[0].preemptions > 100, "{} preemptions", run.replicas[0].preemptions);
    window.in_window.expect("the run is longer than the window")
}

/// In one test, for the counter is one.
#[test]
fn steps_allocate_nothing_after_the_first() {
    for (prefix_caching, async_scheduling) in [(false, false), (true, false), (false, true), (true, true)] {
        let allocations = allocations_per_window(StepPath::Aggregated, prefix_caching, async_scheduling);
        assert_eq!(allocations, 0, "in 4,000 steps, {prefix_caching} {async_scheduling}");
    }
    // The counter counts: the plain path's release keeps a list of its own per request.
    let plain_cached = allocations_per_window(StepPath::Plain, true, false);
    println!("plain path with prefix caching: {plain_cached} allocations in 4,000 steps");
    assert!(ALLOCATIONS.get() > 1_000);
}
