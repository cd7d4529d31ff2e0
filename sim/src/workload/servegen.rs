//! Clients of ServeGen as classes: each with its own arrivals and lengths.

use super::Locate;
use super::arrivals::{Arrivals, Gap, Window, Windowed};
use super::check::CV_WEIBULL;
use super::class::{Class, ClassPlace};
use super::lengths::{Histogram, LengthWindow, Lengths, at_key};
use super::spec::WorkloadSpec;
use super::trace::{Client, Family, LengthCounts, RateWindow, WINDOW_S, read_clients};
use crate::error::Result;
use crate::rng::stream;
use crate::units::{SimDuration, SimTime};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Adds a class per client of the workload at `place`; the first of them has its number. Gives what to know of the
/// files.
pub(super) fn add(
    classes: &mut Vec<Class>,
    spec: &WorkloadSpec,
    place: &ClassPlace,
    seed: u64,
    base_dir: &Path,
    locate: Locate,
) -> Result<Vec<String>> {
    let Some(section) = &spec.servegen else { return Ok(Vec::new()) };
    if spec.requests.is_some() && spec.name.is_some() {
        let message = "cannot go with `servegen` in a class; use `duration` here, or `workload.requests`";
        return Err(locate(&format!("{}.requests", place.key), message.into()));
    }
    let key = format!("{}.servegen", place.key);
    let all =
        read_clients(section, base_dir).map_err(|error| at_key(error, &format!("{key}.arrivals"), locate))?;
    let (clients, unknown): (BTreeMap<u32, Client>, BTreeMap<u32, Client>) =
        all.into_iter().partition(|(_, client)| !client.lengths.is_empty());
    if clients.is_empty() {
        return Err(locate(&format!("{key}.lengths"), "has no lengths of the chosen clients".into()));
    }
    let span_s = clients.values().chain(unknown.values()).map(end_s).fold(0.0, f64::max);
    let rate = |clients: &BTreeMap<u32, Client>| clients.values().map(requests).sum::<f64>() / span_s;
    let (used_per_s, left_out_per_s) = (rate(&clients), rate(&unknown));
    let factor = section.rate.map_or(1.0, |rate| rate.0 / used_per_s);
    for (number, client) in &clients {
        let prefix = format!("{}.client{number}", place.stream_prefix);
        let index = u16::try_from(classes.len()).unwrap_or(u16::MAX);
        let place = ClassPlace { key: place.key, index, stream_prefix: &prefix, tenants: place.tenants };
        let random = |purpose: &str| stream(seed, &format!("{prefix}.{purpose}"));
        let windows = client.windows.iter().map(window).collect();
        let arrivals = Windowed::new(windows, factor, span_s, random("arrivals"));
        let lengths = Lengths::Windows {
            windows: Arc::new(client.lengths.iter().map(length_window).collect()),
            prompt_random: random("prompt"),
            output_random: random("output"),
        };
        let mut class = Class::of(&place, Arrivals::Windowed(Box::new(arrivals)), lengths);
        class.set_common(spec, &place, seed, locate)?;
        class.end = spec.duration.map_or(SimTime::NEVER, |duration| SimTime(duration.0));
        classes.push(class);
    }
    if unknown.is_empty() {
        return Ok(Vec::new());
    }
    let share = left_out_per_s / (used_per_s + left_out_per_s) * 100.0;
    Ok(vec![format!(
        "{} of {} ServeGen clients have no lengths in {} and are left out: {share:.0} % of the requests",
        unknown.len(),
        unknown.len() + clients.len(),
        section.lengths.display()
    )])
}

fn end_s(client: &Client) -> f64 {
    client.windows.last().map_or(0.0, |window| window.start_s + WINDOW_S)
}

fn requests(client: &Client) -> f64 {
    client.windows.iter().map(|window| window.rate_per_s * WINDOW_S).sum()
}

/// Gaps have the window's coefficient of variation; of Weibull's within what shapes of 0.1 to 100 give.
fn window(window: &RateWindow) -> Window {
    Window {
        start_s: window.start_s,
        end_s: window.start_s + WINDOW_S,
        rate_per_s: window.rate_per_s,
        gap: match window.family {
            Family::Gamma => Gap::gamma(window.cv),
            Family::Weibull => Gap::weibull(window.cv.clamp(CV_WEIBULL.0, CV_WEIBULL.1)),
        },
    }
}

fn length_window(counts: &LengthCounts) -> LengthWindow {
    LengthWindow {
        from: SimTime::ZERO + SimDuration::from_seconds(counts.start_s.max(0.0)),
        prompt: Histogram::new(&counts.prompt),
        output: Histogram::new(&counts.output),
    }
}
