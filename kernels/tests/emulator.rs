//! Every kernel against its reference in the emulator, in every order of threads and copies.

use kernels::Device;
use kernels::check::{Outcome, check_all};
use kernels::device::Order;

fn check(order: Order, seed: u64) {
    let device = match Device::emulated(order) {
        Ok(device) => device,
        Err(error) => {
            println!("skipped: {error}");
            return;
        }
    };
    let outcomes = check_all(&device, seed, None, |_| ()).unwrap();
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.passed()).collect();
    assert!(failed.is_empty(), "{order:?}: {failed:#?}");
    assert!(outcomes.len() > 60, "only {} cases ran", outcomes.len());
    for outcome in &outcomes {
        println!(
            "{}: {}: error {:.1e} of {:.0e}",
            outcome.kernel, outcome.case, outcome.error, outcome.tolerance
        );
    }
}

#[test]
fn kernels_are_right_when_copies_land_late() {
    check(Order::ALL[0], 1);
}

#[test]
fn kernels_are_right_when_copies_land_late_and_the_last_warp_runs_ahead() {
    check(Order::ALL[1], 2);
}

#[test]
fn kernels_are_right_when_copies_land_at_once_and_the_first_warp_runs_ahead() {
    check(Order::ALL[2], 3);
}

#[test]
fn kernels_are_right_when_copies_land_at_once_and_the_last_thread_goes_first() {
    check(Order::ALL[3], 4);
}

#[test]
fn kernels_are_right_when_copies_land_late_and_the_first_warp_runs_ahead() {
    check(Order::ALL[4], 5);
}

#[test]
fn kernels_are_right_when_copies_land_at_once_and_the_last_warp_runs_ahead() {
    check(Order::ALL[5], 6);
}
